//! What must hold whatever fails. Each check is handed what happened and notes what it finds; none of them acts.
//!
//! `docs/simulation.md` lists them with the windows that they allow.

mod endings;
mod kept;
mod notices;

use std::collections::BTreeMap;

use berth_core::affinity::CallFailure;
use berth_core::decision::Decision;
use berth_core::event::{Outcome, Reason};
use berth_core::health::State;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{self, ChangeKind, Event, ResolveReply, ResolveRequest, SessionKey};

use crate::fleet::BadLooks;
use crate::nodes::Nodes;
use crate::store::Store;

pub use kept::Lost;

use endings::Over;
use kept::Kept;
use notices::Notices;

/// A proxy that has no trouble learns of a change after one poll that was lost, its pause, and the next tick.
pub const SEEN_BY: u64 = 7_000 + 200 + 800;
/// The same of a session of which the store lost a write: by the next touch but one, the first of which may have been lost.
pub const HEALED_BY: u64 = SEEN_BY + 2 * (15_000 + 1_000);
/// Once faults are over: one touch interval, one poll, the breaker's longest backoff and a provisional placement.
pub const MEET: u64 = 15_000 + 7_200 + 5_000 + 2_800;
/// A request is decided after the timeout of its lookup, at the next fast tick but one.
pub const DECIDED: u64 = 50 + 25;
/// A request that waited for so long may have had no answer: another's client left, and the call was made again, or it was
/// slow.
const UNANSWERED: u64 = 38;
/// How long the ring then decides.
const PROVISIONAL: u64 = 2_000 + 100;
/// The same while the proxy starts.
pub const STARTED: u64 = 500 + 25;
/// A node stays out for this long after it was last seen unhealthy, however often it has failed.
pub const LONGEST_COOLDOWN: u64 = 16_000;
/// The same after its first failure.
const FIRST_COOLDOWN: u64 = 8_000;
/// Why a session moves lies no further back: the longest cooldown, and how late it is seen and shared.
const CAUSE: u64 = LONGEST_COOLDOWN + 10_000;
/// The same for a proxy that does not see its members, and believes for a while what it saw last.
const BLIND_CAUSE: u64 = CAUSE + 34_000;

/// What was violated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A request did not end, or ended late.
    Request,
    /// A call, an answer or a release belongs to nothing.
    Owner,
    /// Something grows without bound.
    Memory,
    /// Two nodes serve a session for longer than the window.
    TwoOwners,
    /// A proxy goes by a pin that the store does not have.
    Stale,
    /// Faults are over, and proxies do not agree.
    Apart,
    /// A session moved without a cause, or without an event that says so.
    Uncaused,
    /// A pin was rewritten in panic.
    Panic,
    /// A cooldown lasts too long.
    Cooldown,
    /// A drain does not hold.
    Drain,
    /// A node was not notified of a session that it got.
    Notice,
    /// A session that is over has a pin.
    Ended,
    /// A new configuration does not know what the former one knew.
    Reload,
}

/// A violation.
#[derive(Debug, Clone)]
pub struct Violation {
    /// What was violated.
    pub kind: Kind,
    /// When, in milliseconds from the start of the run.
    pub at: u64,
    /// The session, if it is of one.
    pub key: Option<SessionKey>,
    /// In words.
    pub what: String,
}

/// Which proxy, and what its state was when something happened.
#[derive(Debug, Clone, Copy)]
pub struct Where {
    /// The proxy.
    pub proxy: usize,
    /// Which configuration of it, by a number that no other has.
    pub worker: u32,
    /// The run's time.
    pub now: u64,
    /// The same as a point in time.
    pub time: Millis,
    /// Since when nothing has kept it from hearing; `None` while something does.
    pub calm_since: Option<u64>,
    /// It does not see its members now.
    pub is_blind: bool,
    /// Its clock was off at some time.
    pub had_clock_off: bool,
}

/// All that is needed to judge.
#[derive(Debug, Default)]
pub struct Checks {
    /// What was found.
    pub found: Vec<Violation>,
    owners: BTreeMap<SessionKey, (String, u64)>,
    gone: BTreeMap<SessionKey, u64>,
    notices: Notices,
    kept: Kept,
    /// Sessions that are over: where that was learned, by which life of the proxy.
    over: BTreeMap<SessionKey, Over>,
    /// Sessions whose lookup was not answered in time, by configuration: until when the ring may decide.
    excused: BTreeMap<(u32, SessionKey), u64>,
    /// When configurations ended.
    done: BTreeMap<u32, u64>,
    /// From when on all must agree.
    agree_from: u64,
    /// Proxies have too few pins for all sessions: what a node has yet to be notified of is given up with its pin.
    forgets: bool,
    /// When a decision last differed from the store's owner.
    pub last_apart: u64,
    /// Sessions that moved.
    pub moved: u64,
}

impl Checks {
    /// Checks of a run in which all must agree from then on.
    #[must_use]
    pub fn new(agree_from: u64, forgets: bool) -> Self {
        Self { agree_from, forgets, ..Self::default() }
    }

    /// Notes a violation.
    pub fn note(&mut self, kind: Kind, at: u64, key: Option<SessionKey>, what: String) {
        if self.found.len() < 50 {
            self.found.push(Violation { kind, at, key, what });
        }
    }

    /// The store is about to resolve: who owns the sessions now.
    #[must_use]
    pub fn before(&self, request: &ResolveRequest, store: &Store, at: Where) -> Vec<Option<String>> {
        let owner = |key| store.session(key, at.time).map(|reply| reply.node.to_string());
        request.sessions.iter().map(|ask| owner(ask.key)).collect()
    }

    /// The store has resolved.
    #[expect(clippy::too_many_arguments, reason = "what a resolve was, and what it did")]
    pub fn resolved(
        &mut self,
        request: &ResolveRequest,
        before: &[Option<String>],
        pins: &[wire::Pin],
        events: &[Event],
        in_panic: bool,
        (store, nodes): (&Store, &Nodes),
        at: Where,
    ) {
        for ((ask, before), pin) in request.sessions.iter().zip(before).zip(pins) {
            let node = pin.node.to_string();
            let known = self.owners.insert(ask.key, (node.clone(), at.now));
            if let Some(before) = known.filter(|(known, _)| *known == node) {
                self.owners.insert(ask.key, before);
            }
            self.gone.remove(&ask.key);
            if let Some(from) = before.as_ref().filter(|from| **from != node) {
                self.moved += 1;
                self.moved_from(from, &node, ask, events, in_panic, nodes, at);
            }
            self.claimed(ask, pin, in_panic, store, at);
            self.notices.asked(ask.key);
        }
        for event in events {
            let Some(key) = event.key else { continue };
            self.notices.forget(key);
            if matches!(event.reason, wire::Reason::Unusable | wire::Reason::Cooldown) {
                self.kept.forget(key);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a move was, and who asked for it")]
    fn moved_from(
        &mut self,
        from: &str,
        to: &str,
        ask: &wire::SessionAsk,
        events: &[Event],
        in_panic: bool,
        nodes: &Nodes,
        at: Where,
    ) {
        let key = Some(ask.key);
        if in_panic {
            let what = format!(
                "proxy {} is in panic, and its resolve moved a session from {from} to {to}",
                at.proxy
            );
            self.note(Kind::Panic, at.now, key, what);
        }
        let says = |event: &&Event| {
            event.kind == ChangeKind::Rehomed
                && event.key == key
                && event.from.as_ref().is_some_and(|node| node.as_str() == from)
                && event.node.as_ref().is_some_and(|node| node.as_str() == to)
                && matches!(event.reason, wire::Reason::Unusable | wire::Reason::Cooldown)
        };
        if !events.iter().any(|event| says(&event)) {
            self.note(Kind::Uncaused, at.now, key, format!("no event says that {from} → {to}, and why"));
        }
        let within = if at.is_blind { BLIND_CAUSE } else { CAUSE };
        let node = Nodes::number(from);
        let had_cause = |within| node.is_some_and(|node| nodes.had_trouble(node, within, at.now));
        if !had_cause(within) && !at.had_clock_off {
            let what = format!("proxy {} moves a session from {from}, well for {within} ms", at.proxy);
            self.note(Kind::Uncaused, at.now, key, what);
        }
    }

    fn claimed(&mut self, ask: &wire::SessionAsk, pin: &wire::Pin, in_panic: bool, store: &Store, at: Where) {
        if pin.outcome != wire::Outcome::Claimed {
            return;
        }
        // What was on its way when its session ended begins it again, though its client may have left. So does what proxies that
        // served it without the store make up for, until the store knows of the end.
        if let Some(over) = self.over.get_mut(&ask.key).filter(|over| !ask.renew || !over.is_said) {
            over.is_used = true;
        }
        if in_panic {
            return;
        }
        let records = store.nodes(at.time);
        let takes = |node: &wire::NodeId| {
            let record = records.iter().find(|record| record.node == *node);
            record.is_none_or(|record| record.takes_new_sessions(at.time.0))
        };
        let had_choice = ask.candidates.iter().any(|node| takes(node) && !ask.unusable.contains(node));
        if had_choice && !takes(&pin.node) {
            let what = format!("a new session was given to {}, which takes none", pin.node);
            self.note(Kind::Drain, at.now, Some(ask.key), what);
        }
    }

    /// A proxy knew a newer pin than the store. That is a loss, and no other move is one.
    pub fn recovered(&mut self, event: &Event, store: &Store, at: Where) {
        let (Some(key), Some(node)) = (event.key, &event.node) else { return };
        self.owners.insert(key, (node.to_string(), at.now));
        if !store.lost.contains(&key) {
            let what = format!("proxy {} knows a newer pin than the store, which lost none", at.proxy);
            self.note(Kind::Uncaused, at.now, Some(key), what);
        }
    }

    /// A session was ended in the store.
    pub fn ended(&mut self, key: SessionKey, now: u64) {
        self.owners.remove(&key);
        self.gone.insert(key, now);
        self.notices.forget(key);
        self.kept.forget(key);
        if let Some(over) = self.over.get_mut(&key) {
            over.is_said = true;
        }
    }

    /// Another instance of the store took over.
    pub fn failed_over(&mut self) {
        self.owners.clear();
        self.gone.clear();
        self.notices.failed_over();
    }

    /// The store has lost what it wrote lately; these sessions were surely known by proxies.
    pub fn lost(&mut self, sessions: Vec<(SessionKey, Lost)>) {
        for (key, lost) in sessions {
            self.kept.lost(key, lost);
        }
    }

    /// Each of the sessions that were lost at that time is where it was, if the proxy that knew it has had no trouble since.
    pub fn kept(
        &mut self,
        lost_at: u64,
        had_no_trouble: impl Fn(&Lost) -> bool,
        (store, nodes): (&Store, &Nodes),
        (now, time): (u64, Millis),
    ) {
        for (key, lost) in self.kept.take(lost_at) {
            let owner = store.session(key, time).map(|reply| reply.node.to_string());
            let node = Nodes::number(&lost.node);
            let had_cause = node.is_none_or(|node| nodes.had_trouble(node, BLIND_CAUSE, now));
            if let Some(owner) = owner.filter(|owner| *owner != lost.node)
                && !had_cause
                && had_no_trouble(&lost)
            {
                let Lost { at, node, proxy, .. } = lost;
                let what = format!(
                    "{owner} has a session that proxy {proxy} knew at {node} when the store lost it at {at} ms"
                );
                self.note(Kind::Uncaused, now, Some(key), what);
            }
        }
    }

    /// A configuration is at work no longer: its proxy was restarted, or has a newer one and all requests have ended.
    pub fn worker_ended(&mut self, worker: u32, now: u64) {
        self.notices.ended(worker);
        self.done.insert(worker, now);
    }

    /// A new configuration came to work. `known` has, of each session that was surely at a node as far as the former one knew,
    /// that node, and the node that the new one knows.
    pub fn reloaded(&mut self, former: u32, known: &[(SessionKey, String, Option<String>)], at: Where) {
        self.notices.reloaded(former, at.worker);
        for (key, before, after) in known.iter().filter(|(_, before, after)| after.as_ref() != Some(before)) {
            let what = format!(
                "proxy {} knew a session at {before}, and has it at {after:?} after a reload",
                at.proxy
            );
            self.note(Kind::Reload, at.now, Some(*key), what);
        }
    }

    /// The node that has this session was started again.
    pub fn node_restarted(&mut self, key: SessionKey, node: &str, now: u64) {
        self.notices.restarted(key, node, now);
    }

    /// A request has an answer, by its node or from elsewhere, or it ended without one.
    pub fn answered(&mut self, key: SessionKey, stream: u32, is_by_its_node: bool, worker: u32) {
        self.notices.answered((worker, key), stream, is_by_its_node);
    }

    /// A proxy is about to receive an answer.
    pub fn learn(&mut self, body: Result<&[u8], &CallFailure>, states: &BTreeMap<String, State>, at: Where) {
        let Some(reply) = body.ok().and_then(|body| serde_json::from_slice::<ResolveReply>(body).ok()) else {
            return;
        };
        let is_notice = |pin: &&wire::Pin| !self.forgets && (pin.from.is_some() || pin.restore);
        for pin in reply.pins.iter().filter(is_notice) {
            let node = pin.node.to_string();
            if states.get(&node).is_some_and(|state| state.serves()) {
                self.notices.learn(at.worker, pin.key, node, at.now);
            }
        }
    }

    /// A request was decided.
    pub fn decided(
        &mut self,
        (stream, key): (u32, SessionKey),
        decision: &Decision,
        snapshot: Option<&Snapshot>,
        store: &Store,
        waited: u64,
        at: Where,
    ) {
        if waited >= UNANSWERED {
            self.excused.insert((at.worker, key), at.now + PROVISIONAL);
        }
        let is_excused = self.excused.get(&(at.worker, key)).is_some_and(|until| at.now <= *until);
        let must_agree = at.now >= self.agree_from && !is_excused;
        if let Some(over) = self.over.get_mut(&key) {
            over.is_used = true;
        }
        let Decision::Route { placement, notice } = decision else {
            if must_agree && !matches!(decision, Decision::Reply(reply) if reply.status == 401) {
                let what =
                    format!("proxy {} does not serve a session though all is well: {decision:?}", at.proxy);
                self.note(Kind::Apart, at.now, Some(key), what);
            }
            return;
        };
        let node = snapshot.and_then(|view| placement.nodes(view).next()).map(|node| node.name.clone());
        let Some(node) = node else { return };
        let is_pinned = placement.reason == Reason::Pin && placement.outcome != Outcome::Ring;
        let seen_by = if store.lost.contains(&key) { HEALED_BY } else { SEEN_BY };
        // A request that goes on without an answer carries what is known already.
        // The store may have lost that a session is new at its node, with the write that brought it there.
        if (is_pinned || notice.is_some()) && !store.lost.contains(&key) {
            self.check_notice(key, &node, notice.as_ref().map(|_| stream), at);
        }
        let owner = store.session(key, at.time).map(|reply| reply.node.to_string());
        if owner.as_ref() != Some(&node) {
            self.last_apart = self.last_apart.max(at.now);
            if must_agree {
                let what =
                    format!("proxy {} sends to {node} ({placement:?}), the store says {owner:?}", at.proxy);
                self.note(Kind::Apart, at.now, Some(key), what);
                return;
            }
        }
        let is_free = |since: u64| at.calm_since.is_some_and(|calm| at.now > calm.max(since) + seen_by);
        if let Some(since) = self.notices.unasked(key, &node)
            && placement.outcome == Outcome::Hit
            && is_free(since)
        {
            let what =
                format!("proxy {} sends to {node} as before, which was restarted at {since} ms", at.proxy);
            self.note(Kind::Notice, at.now, Some(key), what);
        }
        match owner {
            Some(owner) if owner != node && is_pinned => {
                let since = self.owners.get(&key).map_or(0, |(_, since)| *since);
                if is_free(since) {
                    let what =
                        format!("proxy {} sends to {node}, {owner} owns it since {since} ms", at.proxy);
                    self.note(Kind::TwoOwners, at.now, Some(key), what);
                }
            }
            None if placement.outcome == Outcome::Hit => {
                let since = *self.gone.entry(key).or_insert(at.now);
                if is_free(since) {
                    let what =
                        format!("proxy {} sends to {node}, the store has no pin since {since} ms", at.proxy);
                    self.note(Kind::Stale, at.now, Some(key), what);
                }
            }
            _ => {}
        }
    }

    fn check_notice(&mut self, key: SessionKey, node: &str, notifies: Option<u32>, at: Where) {
        if !self.notices.sent((at.worker, key), node, notifies, at.now) {
            let what =
                format!("proxy {} sends to {node}, which is not notified that it is new there", at.proxy);
            self.note(Kind::Notice, at.now, Some(key), what);
        }
    }

    /// A proxy tells of a cooldown.
    pub fn cooldown_told(&mut self, node: &str, left: u64, bad: BadLooks, at: Where) {
        let length = if bad.failures > 1 { LONGEST_COOLDOWN } else { FIRST_COOLDOWN };
        if left > length {
            let what = format!("proxy {} shares {left} ms of a cooldown of {node} of {length} ms", at.proxy);
            self.note(Kind::Cooldown, at.now, None, what);
        }
        let until = at.time.0 + left;
        // Looks are a second apart, and a node may have been out until the next but one. What is left is counted from the
        // call's arrival, and it may have been on its way for a second.
        let latest = bad.last.0 + length + 3_000;
        if until > latest && !at.had_clock_off {
            let over = until - latest;
            let what = format!("proxy {} extends the cooldown of {node} by {over} ms too long", at.proxy);
            self.note(Kind::Cooldown, at.now, None, what);
        }
    }
}
