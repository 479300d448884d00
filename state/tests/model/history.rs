//! Random histories.

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeId, NodeState, PoolName, ResolveRequest, SessionAsk, SessionKey};

use super::{FAR, HALF, HOUR, NODES, SESSIONS};

/// A small generator with a seed, so that a failure can be repeated: splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn nodes(&mut self, least: u64, most: u64) -> Vec<NodeId> {
        let count = least + self.below(most - least + 1);
        let mut all: Vec<u64> = (0..NODES).collect();
        (0..count).map(|_| node(all.swap_remove(self.below(all.len() as u64) as usize))).collect()
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Resolve(ResolveRequest, Vec<Said>),
    Touch(Vec<(SessionKey, Said)>),
    Expire(SessionKey),
    End(SessionKey, Millis),
    Node(NodeId, NodeChange),
    Forget(NodeId),
}

/// What a request says of a pin: versions are only known when the history is played.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Nothing,
    /// So many answers ago.
    Answered(usize),
    /// That it went to this node, which the store has lost.
    Lost(NodeId),
}

fn said(random: &mut Random) -> Said {
    match random.below(6) {
        0 | 1 => Said::Answered(0),
        2 => Said::Answered(1),
        3 if random.below(3) == 0 => Said::Lost(node(random.below(NODES))),
        _ => Said::Nothing,
    }
}

pub(super) fn node(number: u64) -> NodeId {
    format!("10.0.0.1:{}", 8000 + number).parse().unwrap()
}

pub(super) fn key(number: u64) -> SessionKey {
    SessionKey::new("model", &number.to_le_bytes())
}

/// What a session brings besides, each seldom.
fn lasting(random: &mut Random, ask: SessionAsk, now: u64) -> SessionAsk {
    SessionAsk {
        ttl_ms: (random.below(4) == 0).then(|| (5 + random.below(4) * 10) * HOUR + HALF),
        claim_ttl_ms: (random.below(4) == 0).then(|| (1 + random.below(60)) * HOUR + HALF),
        ends_ms: (random.below(4) == 0).then(|| match random.below(6) {
            0 => 1 + random.below(2),
            // Not as long as any idle time, by minutes.
            far => now + far * 7 * HOUR + HALF + 300_000,
        }),
        created_ms: (random.below(4) == 0).then(|| random.below(3)),
        session_version: (random.below(3) == 0).then(|| random.below(4) as u32),
        strict: random.below(4) == 0,
        alias_of: (random.below(3) == 0).then(|| key(random.below(SESSIONS))).filter(|key| *key != ask.key),
        renew: random.below(3) == 0,
        ..ask
    }
}

pub(super) fn step(random: &mut Random, pool: &PoolName, now: u64) -> Step {
    match random.below(20) {
        0 => Step::Expire(key(random.below(SESSIONS))),
        // Of now, or of before the history began.
        1 => Step::End(key(random.below(SESSIONS)), Millis(random.below(2) * HOUR)),
        2..4 => {
            let keys: Vec<u64> = (0..SESSIONS).filter(|_| random.below(2) == 0).collect();
            Step::Touch(keys.into_iter().map(|number| (key(number), said(random))).collect())
        }
        4 if random.below(3) == 0 => Step::Forget(node(random.below(NODES))),
        4..8 => {
            let mut change = NodeChange::default();
            match random.below(5) {
                // All but standby, the last.
                4 => change.self_state = Some(NodeState::ALL[random.below(3) as usize].1),
                0 => change.state = Some(NodeState::ALL[random.below(4) as usize].1),
                1 => change.boot_id = Some(format!("boot-{}", random.below(3))),
                2 => change.weight = Some(1 + random.below(3) as u32),
                // Rarely endless: only forgetting the node ends it.
                _ => change.cooldown_until_ms = Some(if random.below(4) == 0 { FAR } else { 1 }),
            }
            Step::Node(node(random.below(NODES)), change)
        }
        _ => {
            let first = random.below(SESSIONS);
            let count = 1 + random.below(SESSIONS);
            let sessions = (0..count).map(|i| {
                let key = key((first + i) % SESSIONS);
                let ask = SessionAsk::new(key, random.nodes(1, 3), random.nodes(0, 2));
                lasting(random, ask, now)
            });
            let request = ResolveRequest {
                pool: pool.clone(),
                region: None,
                sessions: sessions.collect(),
                panic: random.below(5) == 0,
                correlation_id: None,
            };
            let said = request.sessions.iter().map(|_| said(random)).collect();
            Step::Resolve(request, said)
        }
    }
}
