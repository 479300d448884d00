//! One row: load before, during and after its fault, and what that shows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_harness::Envoy;
use tokio::time::sleep;

use crate::load::{Answer, Crowd, Load, RESIDENTS, name};
use crate::stage::{Stage, TTL};
use crate::table::Row;

/// Until each session was asked for through both Envoys, pinned, and the nodes that come later are known.
const SETTLING: Duration = Duration::from_secs(2);
const BEFORE: Duration = Duration::from_secs(1);
const FAULT: Duration = Duration::from_secs(5);
/// All must have agreed for so long.
const QUIET: Duration = Duration::from_secs(3);
/// What touches have not brought together is not brought together: a touch interval, and 5 s until a breaker tries again.
const AGREED: Duration = Duration::from_secs(TTL.as_secs() / 4 + 5);

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    pub(crate) slowest: Duration,
    /// Residents of node 0 that are elsewhere for good.
    pub(crate) moved: usize,
    /// Those of other nodes.
    pub(crate) moved_needlessly: usize,
    /// Residents that were served elsewhere for a while.
    pub(crate) elsewhere: usize,
    /// New sessions of the time of the fault.
    pub(crate) newcomers: usize,
    /// Sessions at two nodes, or not where the store says, once all should have agreed.
    pub(crate) two_nodes: usize,
    /// From the end of the fault.
    pub(crate) agreed_after: Duration,
    pub(crate) broken: Vec<String>,
    /// Of the answers from elsewhere, the first.
    pub(crate) example: Option<String>,
}

/// Plays a row; an error if this machine cannot.
pub(crate) async fn play(row: &Row) -> Result<Seen, String> {
    let stage = Stage::set(row).await?;
    let clients = stage.world.envoys().iter().map(Envoy::client).collect();
    let names = stage.nodes.iter().map(|node| node.name()).collect();
    let load = Load::new(clients, names);
    let mut crowd = Crowd::gather(&load);
    sleep(SETTLING).await;
    stage.grow().await;
    sleep(SETTLING).await;
    let from = Instant::now();
    crowd.grow(&load, BEFORE).await;
    let began = Instant::now();
    let homes = homes(&load.answers(), RESIDENTS);

    stage.begin(row, &load).await;
    crowd.grow(&load, FAULT).await;
    let is_there = stage.is_there(row).await;
    stage.end(row, &load).await;
    let ended = Instant::now();
    crowd.grow(&load, BEFORE).await;

    let sessions = crowd.sessions();
    let deadline = ended + AGREED;
    if row.forgets {
        // Until each worker has touched what it knows, one that does not know a session may still claim it.
        sleep(TTL / 4).await;
    }
    while Instant::now() < deadline && last_disagreement(&load.answers(), sessions, ended).elapsed() < QUIET {
        sleep(Duration::from_millis(250)).await;
    }
    let agreed = last_disagreement(&load.answers(), sessions, ended);
    let checked = Instant::now();
    sleep(QUIET).await;
    crowd.leave().await;

    let answers = load.answers();
    let mut seen = Seen::of(&answers, from, &homes, sessions);
    seen.agreed_after = agreed - ended;
    let is_elsewhere = |answer: &&Answer| {
        let home = homes.get(answer.session).copied().flatten();
        answer.asked >= from && home.is_some_and(|home| answer.node.as_ref().is_ok_and(|node| *node != home))
    };
    seen.example = answers.iter().find(is_elsewhere).map(|answer| text(answer, began));
    let late: Vec<&Answer> = answers.iter().filter(|answer| answer.asked >= checked).collect();
    let mut described = Vec::new();
    for session in 0..sessions {
        let found: BTreeSet<usize> = late
            .iter()
            .filter(|answer| answer.session == session)
            .filter_map(|answer| answer.node.clone().ok())
            .collect();
        let pin = stage.pin_of(&name(session)).await;
        let is_one =
            found.len() == 1 && pin.is_none_or(|pin| found.iter().all(|node| stage.name_of(*node) == pin));
        if !is_one {
            seen.two_nodes += 1;
            described.extend(
                late.iter().rev().find(|answer| answer.session == session).map(|answer| text(answer, ended)),
            );
        }
    }
    if !is_there {
        seen.broken.push("the fault was not there: its part, or the way, was as before".into());
    }
    seen.judge(row, began, &answers, &described);
    for (index, envoy) in stage.world.envoys().iter().enumerate() {
        let failures = envoy.wasm_failures().await;
        if failures > 0 {
            seen.broken.push(format!("{failures} failures of the VM in Envoy {index}"));
        }
    }
    Ok(seen)
}

impl Seen {
    fn of(answers: &[Answer], from: Instant, homes: &[Option<usize>], sessions: usize) -> Self {
        let counted: Vec<&Answer> = answers.iter().filter(|answer| answer.asked >= from).collect();
        let mut seen = Self {
            requests: counted.len(),
            failed: counted.iter().filter(|answer| answer.node.is_err()).count(),
            slowest: counted.iter().map(|answer| answer.answered - answer.asked).max().unwrap_or_default(),
            newcomers: sessions - homes.len(),
            ..Self::default()
        };
        let last = self::homes(answers, sessions);
        for (session, home) in homes.iter().enumerate() {
            let was_elsewhere = counted.iter().any(|answer| {
                answer.session == session && answer.node.as_ref().is_ok_and(|node| Some(*node) != *home)
            });
            match last[session] {
                last if last == *home => seen.elsewhere += usize::from(was_elsewhere),
                _ if *home == Some(0) => seen.moved += 1,
                _ => seen.moved_needlessly += 1,
            }
        }
        seen
    }

    /// Holds it against what the row promises.
    fn judge(&mut self, row: &Row, began: Instant, answers: &[Answer], two_nodes: &[String]) {
        let mut promise = |held: bool, what: String| {
            if !held {
                self.broken.push(what);
            }
        };
        let failure = answers.iter().find(|answer| answer.answered >= began && answer.node.is_err());
        let failure = failure.map(|answer| text(answer, began));
        let slack = row.failed;
        promise(
            self.failed as u64 <= slack,
            format!(
                "{} requests failed, at most {slack} may; such as {failure:?}, since the fault began",
                self.failed
            ),
        );
        let moved = if row.moves { RESIDENTS } else { 0 };
        promise(
            self.moved_needlessly == 0,
            format!("{} sessions moved from nodes that lived and were reached", self.moved_needlessly),
        );
        promise(self.moved <= moved, format!("{} sessions moved", self.moved));
        promise(
            self.two_nodes == 0,
            format!(
                "{} sessions are at two nodes, or not at their pin; such as {two_nodes:?}",
                self.two_nodes
            ),
        );
        promise(
            self.agreed_after < AGREED,
            format!("proxies did not agree within {AGREED:?} of the end of the fault"),
        );
        promise(self.newcomers > 0, "no new session came".into());
    }
}

fn text(answer: &Answer, since: Instant) -> String {
    let Answer { session, envoy, asked, answered, node, header } = answer;
    let after = asked.saturating_duration_since(since);
    let took = *answered - *asked;
    format!("session {session} by Envoy {envoy} after {after:?}, took {took:?}: {node:?} ({header})")
}

/// Where each session was found last.
fn homes(answers: &[Answer], sessions: usize) -> Vec<Option<usize>> {
    let mut homes = vec![None; sessions];
    for answer in answers {
        if let Ok(node) = answer.node
            && answer.session < sessions
        {
            homes[answer.session] = Some(node);
        }
    }
    homes
}

/// When an answer came last that was not from the node where its session is now; or the end of the fault.
fn last_disagreement(answers: &[Answer], sessions: usize, ended: Instant) -> Instant {
    let homes = homes(answers, sessions);
    let other = answers.iter().filter(|answer| answer.node.as_ref().ok() != homes[answer.session].as_ref());
    other.map(|answer| answer.answered).max().unwrap_or(ended).max(ended)
}
