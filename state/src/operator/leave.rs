//! `berth leave`: what a pod does before it stops. Its node takes no new sessions, and it waits for those that it has.
//!
//! Each second it asks whether the node is still recorded as draining: a service that lost its records is notified again, and the
//! count begins again. Once it is recorded no answer ends the wait before the deadline: while services are updated, a new one
//! and an old one may answer in turn. A session counts while its pin lives: until it ends, or was not used for its time to live.

use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeState};
use berth_state::given::{Fault, Given, time};
use clap::Args;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::Failure;
use super::itself::{ASK_AGAIN, Itself, Speaker, in_default_pool, say, warn};
use super::known::Known;
use super::show::duration;
use super::signals::stopped;
use super::undo::undo;
use super::walk::{Left, Walk};

/// Proxies learn within half a second that a node is draining. A session that came to it before that is counted.
const SETTLED: Duration = Duration::from_secs(1);
/// A look may count once more after [`SETTLED`] and `--at-least`, and before the deadline.
const ONE_LOOK: Duration = Duration::from_secs(1);
/// The service walks through its store to count. Between two looks this passes for each second that the last part took …
const REST: u32 = 10;
/// … but no more than this, so that a slow service does not hide the end of the last session.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Patience {
    /// How long to wait for its sessions to end. The pod's grace period must be longer, by what the node itself needs to stop
    #[arg(
        long,
        value_name = "TIME",
        env = "BERTH_DEADLINE",
        default_value = "60s",
        value_parser = time(Millis(1_000)..=Millis(86_400_000))
    )]
    deadline: Given<Millis>,
    /// How long to wait at least, also without sessions: until all proxies know that the node leaves
    #[arg(
        long,
        value_name = "TIME",
        env = "BERTH_AT_LEAST",
        default_value = "5s",
        value_parser = time(Millis(0)..=Millis(86_400_000))
    )]
    at_least: Given<Millis>,
    /// Take a former `berth leave` back, because the node stays: it gets new sessions again
    #[arg(long)]
    undo: bool,
}

impl Patience {
    /// Deadline, and time to wait at least.
    fn times(&self, faults: &mut Vec<Fault>) -> Option<(Duration, Duration)> {
        let [deadline, at_least] = [&self.deadline, &self.at_least].map(|time| time.clone().take(faults));
        let [deadline, at_least] = [deadline?, at_least?].map(|time| Duration::from_millis(time.0));
        let needed = at_least.max(SETTLED) + ONE_LOOK;
        if !self.undo && deadline < needed {
            let [deadline, at_least, needed] = [deadline, at_least, needed].map(shown);
            faults.push(Fault::new(
                "--deadline, --at-least",
                format!(
                    "the deadline must be {needed} or more, is {deadline}: sessions are counted after --at-least, {at_least}"
                ),
            ));
            return None;
        }
        Some((deadline, at_least))
    }
}

/// Drains the node and waits until it has no sessions.
///
/// # Errors
/// [`Failure::Remaining`] at the deadline, [`Failure::Stopped`] by a signal; [`Failure::Unreachable`] or [`Failure::Denied`] if
/// the service did not record until the deadline that the node is draining in each pool; [`Failure::Unknown`] if nothing
/// else is known of the node.
pub(super) async fn leave(itself: &Itself, patience: &Patience) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let (speaker, times) = (itself.speaker(&mut faults), patience.times(&mut faults));
    let (Some(speaker), Some((deadline, at_least))) = (speaker, times) else {
        return Err(Failure::Usage(faults));
    };

    let began = Instant::now();
    if patience.undo {
        return undo(&speaker, began + deadline).await;
    }
    let place = || Place { is_recorded: None, version: None, walk: Walk::new(), was_first: false };
    let places = speaker.pools.iter().map(|_| place()).collect();
    let mut leaving = Leaving {
        speaker,
        places,
        first: 0,
        has_looked: false,
        draining: 0,
        settled: began,
        at_least: began + at_least,
        end: began + deadline,
        last: Left::Unknown,
        part: Duration::ZERO,
        look: Duration::ZERO,
        failed: None,
    };
    tokio::select! {
        biased;
        (number, name) = stopped() => {
            let node = &leaving.speaker.node;
            let message = format!(
                "{name}: no longer waits for the sessions of {node}. It gets no new ones until `berth leave --undo`, or its next start"
            );
            Err(Failure::Stopped(number, message))
        }
        left = leaving.wait() => left,
    }
}

/// What is known of the node in one pool.
struct Place {
    /// Something was recorded before this command did.
    is_recorded: Option<bool>,
    /// The version of the record as it was last seen: draining.
    version: Option<u64>,
    walk: Walk,
    /// Its sessions were looked for in the first look. Else they may have ended while others were waited for.
    was_first: bool,
}

struct Leaving {
    speaker: Speaker,
    /// One for each pool.
    places: Vec<Place>,
    /// The pool to look at first: the last one in which sessions were found.
    first: usize,
    /// A look has succeeded.
    has_looked: bool,
    /// In so many of the pools it is recorded.
    draining: usize,
    /// From then on all proxies know.
    settled: Instant,
    at_least: Instant,
    end: Instant,
    last: Left,
    /// How long the last part of a count took, and the last look.
    part: Duration,
    look: Duration,
    /// Why the last call failed.
    failed: Option<Failure>,
}

impl Leaving {
    async fn wait(&mut self) -> Result<(), Failure> {
        let mut next_look = Instant::now();
        loop {
            match timeout_at(self.end, self.step(next_look)).await {
                Ok(Err(failure)) if self.may_pass(&failure) => {
                    self.fail(failure);
                    next_look = Instant::now();
                }
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(left)) => {
                    if self.is_away() {
                        warn("the service answers again");
                    }
                    self.failed = None;
                    if let Some(left) = left {
                        self.has_looked = true;
                        self.note(left);
                        if left == Left::Counted(0) && self.is_believable() {
                            match timeout_at(self.end, self.is_still_draining()).await {
                                Ok(Ok(true)) => return self.judge().await,
                                Ok(Ok(false)) | Err(_) => {}
                                Ok(Err(failure)) => self.fail(failure),
                            }
                        }
                        next_look =
                            next_look_after(Instant::now(), self.part, self.look, self.at_least, self.end);
                    }
                }
                // The deadline, which is looked at below.
                Err(_) => {}
            }
            let now = Instant::now();
            let tick = (now + ASK_AGAIN).min(self.end);
            // What is waited for anyway may be sooner than the next second.
            let soon = [next_look, self.at_least].into_iter().filter(|time| *time > now).min();
            sleep_until(soon.map_or(tick, |soon| soon.min(tick))).await;
            if Instant::now() >= self.end {
                return Err(self.at_the_end());
            }
        }
    }

    fn is_draining(&self) -> bool {
        self.draining == self.places.len()
    }

    /// What is refused before the node is draining is wrong with the command. Later it keeps the sessions that it can.
    fn may_pass(&self, failure: &Failure) -> bool {
        let is_answer = matches!(failure, Failure::Refused(_) | Failure::Absent(_));
        failure.may_pass() || is_answer && self.is_draining()
    }

    fn is_away(&self) -> bool {
        self.failed.as_ref().is_some_and(|failure| !matches!(failure, Failure::Busy(_)))
    }

    /// Says why a call failed, once for each kind of failure. That another one counts is not worth it: nodes that leave
    /// together take turns.
    fn fail(&mut self, failure: Failure) {
        let kind = std::mem::discriminant(&failure);
        let is_new = self.failed.as_ref().map(std::mem::discriminant) != Some(kind);
        if is_new && !matches!(failure, Failure::Busy(_)) {
            warn(&format!("{failure}; trying again each second"));
        }
        // A service that is busy is there. If that began the walks again, nodes that leave together would never end one.
        if !matches!(failure, Failure::Busy(_)) {
            self.begin_again();
        }
        self.failed = Some(failure);
    }

    fn begin_again(&mut self) {
        self.places.iter_mut().for_each(|place| place.walk.restart());
    }

    /// Sees to it that the node is draining, and counts its sessions if that is due and all proxies know.
    async fn step(&mut self, next_look: Instant) -> Result<Option<Left>, Failure> {
        self.drain().await?;
        if Instant::now() < next_look {
            return Ok(None);
        }
        sleep_until(self.settled).await;
        let began = Instant::now();
        let left = self.count().await;
        self.look = began.elapsed();
        left.map(Some)
    }

    /// Says in each pool that the node is draining, where that is not recorded.
    async fn drain(&mut self) -> Result<(), Failure> {
        let change = NodeChange { self_state: Some(NodeState::Draining), ..NodeChange::default() };
        for position in 0..self.places.len() {
            let (Some(pool), Some(place)) = (self.speaker.pools.get(position), self.places.get_mut(position))
            else {
                continue;
            };
            // Each change is in the service's log, also one that changes nothing.
            let record = self.speaker.record(pool).await?;
            place.is_recorded.get_or_insert(record.is_some());
            let recorded = record.filter(|record| record.self_state == Some(NodeState::Draining));
            let is_same = recorded.as_ref().is_some_and(|record| Some(record.version) == place.version);
            let record = match recorded {
                Some(record) => record,
                None => self.speaker.say(pool, &change).await?,
            };
            place.version = Some(record.version);
            if !is_same {
                // It may have been active meanwhile, and proxies gave it sessions.
                self.settled = Instant::now() + SETTLED;
                place.walk.restart();
            }
            if self.draining == position {
                self.draining += 1;
                say(&format!("{} is draining in pool {pool}", self.speaker.node));
            }
        }
        Ok(())
    }

    async fn count(&mut self) -> Result<Left, Failure> {
        let Speaker { client, node, pools, .. } = &self.speaker;
        let mut sum = 0;
        for position in (self.first..pools.len()).chain(0..self.first) {
            let (Some(pool), Some(place)) = (pools.get(position), self.places.get_mut(position)) else {
                continue;
            };
            place.was_first |= !self.has_looked;
            let left = place.walk.look(client, pool, node).await;
            self.part = place.walk.part;
            match left? {
                Left::Counted(count) => sum += count,
                // A whole walk through each pool only says how many more there are.
                Left::AtLeast(count) => {
                    self.first = position;
                    return Ok(Left::AtLeast(sum + count));
                }
                Left::Unknown => return Ok(Left::Unknown),
            }
        }
        Ok(Left::Counted(sum))
    }

    /// The walks that found nothing began when all proxies knew.
    fn is_believable(&self) -> bool {
        let from = self.settled.max(self.at_least);
        self.places.iter().all(|place| place.walk.began.is_some_and(|began| began >= from))
    }

    /// What is recorded now is what was recorded when the walks began. Else the node may have got sessions behind them.
    async fn is_still_draining(&self) -> Result<bool, Failure> {
        for (pool, place) in self.speaker.pools.iter().zip(&self.places) {
            let record = self.speaker.record(pool).await?;
            let is_same = record.is_some_and(|record| {
                record.self_state == Some(NodeState::Draining) && Some(record.version) == place.version
            });
            if !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Prints how many are left if that has changed.
    fn note(&mut self, left: Left) {
        if left != self.last {
            let time = shown(self.end.saturating_duration_since(Instant::now()));
            say(&format!("{}, {time} until the deadline", sessions(left)));
        }
        self.last = left;
    }

    /// Whether that there are no sessions means anything: the service records any name in any pool.
    async fn judge(&self) -> Result<(), Failure> {
        let Speaker { node, pools, names_pools, .. } = &self.speaker;
        let (mut doubts, mut unknown) = (Vec::new(), 0);
        let is_empty = |place: &Place| place.was_first && !place.walk.has_found;
        for (pool, place) in pools.iter().zip(&self.places).filter(|(_, place)| is_empty(place)) {
            let known = Known::of(&self.speaker, pool).await.ok();
            let advice = known.as_ref().map_or_else(String::new, |known| format!(" {}", known.advice(pool)));
            if place.is_recorded != Some(true) {
                unknown += 1;
                doubts.push(format!(
                    "nothing is known of {node} in pool {pool}: it had no sessions, and nothing was recorded of it.{advice}"
                ));
            } else if known.is_some_and(|known| known.is_unlike(node)) {
                doubts.push(format!(
                    "{node} had no sessions in pool {pool}, and is not named as other nodes are.{advice}"
                ));
            }
        }
        if let ([pool], false, [doubt]) = (pools.as_slice(), names_pools, doubts.as_mut_slice()) {
            *doubt = format!("{}: {doubt}", in_default_pool(pool));
        }
        if unknown == pools.len() {
            return Err(Failure::Unknown(doubts.join("\n  ")));
        }
        doubts.iter().for_each(|doubt| warn(doubt));
        Ok(())
    }

    fn at_the_end(&mut self) -> Failure {
        let node = &self.speaker.node;
        let failed = self.failed.take();
        if let Some(pool) = self.speaker.pools.get(self.draining) {
            let what = format!("{node} is not draining in pool {pool}");
            return match failed {
                Some(Failure::Denied(why)) => Failure::Denied(format!("{why}; {what}")),
                Some(failure) => Failure::Unreachable(format!("{failure}; {what}")),
                None => Failure::Unreachable(format!("no answer in time; {what}")),
            };
        }
        let why = failed.map_or_else(String::new, |failure| format!("; {failure}"));
        let left = sessions(self.last);
        Failure::Remaining(match self.last {
            Left::Counted(0) => format!("the deadline has passed: {node} had {left} at the last count{why}"),
            _ => format!("the deadline has passed: {node} has {left}{why}"),
        })
    }
}

/// When to count again, by how long the last part and the last look took. A last look is made before the deadline, with as much time
/// as that took.
fn next_look_after(now: Instant, part: Duration, look: Duration, at_least: Instant, end: Instant) -> Instant {
    let next = now + (part * REST).clamp(ASK_AGAIN, LONGEST_PAUSE);
    let last = end.checked_sub(look.max(ONE_LOOK)).filter(|last| *last > now);
    let next = last.map_or(next, |last| next.min(last));
    if at_least > now { next.min(at_least) } else { next }
}

fn shown(time: Duration) -> String {
    duration(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn sessions(left: Left) -> String {
    match left {
        Left::Unknown => "sessions that could not be counted".to_owned(),
        Left::Counted(1) => "1 session left".to_owned(),
        Left::Counted(0) => "no sessions left".to_owned(),
        Left::Counted(count) => format!("{count} sessions left"),
        Left::AtLeast(1) => "at least 1 session left".to_owned(),
        Left::AtLeast(count) => format!("at least {count} sessions left"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_look_is_bounded_and_one_comes_before_the_deadline() {
        let now = Instant::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        for (part, look, at_least, end, expected) in [
            (10, 10, 0, 60_000, 1_000),
            (200, 200, 0, 60_000, 2_000),
            // Of a walk in many parts only the last one counts.
            (200, 30_000, 0, 60_000, 2_000),
            (3_000, 3_000, 0, 60_000, 5_000),
            // The last look.
            (3_000, 3_000, 0, 6_000, 3_000),
            (3_000, 10, 0, 3_500, 2_500),
            // The time for it has passed: then the deadline comes first.
            (3_000, 3_000, 0, 2_000, 5_000),
            // What is waited for anyway.
            (3_000, 3_000, 700, 60_000, 700),
        ] {
            let [part, look] = [part, look].map(Duration::from_millis);
            let next = next_look_after(now, part, look, after(at_least), after(end));
            assert_eq!(next, after(expected), "{part:?} {look:?} {at_least} {end}");
        }
    }
}
