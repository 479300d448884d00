//! `berth leave`: what a pod does before it stops. Its node takes no new sessions, and it waits for those that it has.
//!
//! Each look also asks whether the node is still recorded as draining: a service that lost its records is notified again. A session
//! counts while its pin lives: until it ends, or was not used for its time to live.

use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeState};
use berth_state::given::{Fault, Given, time};
use clap::Args;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::Failure;
use super::itself::{ASK_AGAIN, Itself, Speaker, in_default_pool, say, until, warn};
use super::known::Known;
use super::show::duration;
use super::signals::stopped;
use super::walk::{Left, Walk};

/// Proxies learn within half a second that a node is draining. A session that came to it before that is counted.
const SETTLED: Duration = Duration::from_secs(1);
/// A look may count once more after [`SETTLED`] and `--at-least`.
const ONE_LOOK: Duration = Duration::from_secs(1);
/// The service walks through its store to count: it does nothing but that for a tenth of the time at most.
const REST: u32 = 10;

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
    let place = || Place { is_recorded: None, walk: Walk::new(), was_first: false };
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
        counting: Duration::ZERO,
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
    /// How long the last count took.
    counting: Duration,
    /// Why the last look failed.
    failed: Option<Failure>,
}

impl Leaving {
    async fn wait(&mut self) -> Result<(), Failure> {
        loop {
            match timeout_at(self.end, self.look()).await {
                Ok(Err(failure)) if failure.may_pass() => self.fail(failure),
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(left)) => {
                    if self.is_away() {
                        warn("the service answers again");
                    }
                    (self.failed, self.has_looked) = (None, true);
                    self.note(left);
                    if left == Left::Counted(0) && Instant::now() >= self.at_least {
                        return self.judge().await;
                    }
                }
                // The deadline, which is looked at below.
                Err(_) => {}
            }
            let now = Instant::now();
            let pause = if self.is_away() { ASK_AGAIN } else { ASK_AGAIN.max(self.counting * REST) };
            // What is waited for anyway may be sooner than the next look.
            let next = (now + pause).min(self.end);
            sleep_until(if self.at_least > now { next.min(self.at_least) } else { next }).await;
            if Instant::now() >= self.end {
                return Err(self.at_the_end());
            }
        }
    }

    fn is_away(&self) -> bool {
        matches!(self.failed, Some(Failure::Unreachable(_) | Failure::Denied(_)))
    }

    /// Says why a look failed, once for each kind of failure. That another one counts is not worth it: nodes that leave
    /// together take turns.
    fn fail(&mut self, failure: Failure) {
        let kind = std::mem::discriminant(&failure);
        let is_new = self.failed.as_ref().map(std::mem::discriminant) != Some(kind);
        if is_new && !matches!(failure, Failure::Busy(_)) {
            warn(&format!("{failure}; trying again each second"));
        }
        if matches!(failure, Failure::Unreachable(_)) {
            self.places.iter_mut().for_each(|place| place.walk.restart());
        }
        self.failed = Some(failure);
    }

    /// Says that the node is draining, and counts its sessions once all proxies know.
    async fn look(&mut self) -> Result<Left, Failure> {
        let Speaker { client, node, pools, .. } = &self.speaker;
        let change = NodeChange { self_state: Some(NodeState::Draining), ..NodeChange::default() };
        for (position, (pool, place)) in pools.iter().zip(&mut self.places).enumerate() {
            // Each change is in the service's log, also one that changes nothing.
            let record = self.speaker.record(pool).await?;
            place.is_recorded.get_or_insert(record.is_some());
            if record.and_then(|record| record.self_state) != Some(NodeState::Draining) {
                self.speaker.say(pool, &change).await?;
            }
            if self.draining == position {
                self.draining += 1;
                self.settled = Instant::now() + SETTLED;
                say(&format!("{node} is draining in pool {pool}"));
            }
        }
        sleep_until(self.settled).await;
        let began = Instant::now();
        let mut sum = 0;
        for position in (self.first..pools.len()).chain(0..self.first) {
            let (Some(pool), Some(place)) = (pools.get(position), self.places.get_mut(position)) else {
                continue;
            };
            place.was_first |= !self.has_looked;
            let left = place.walk.look(client, pool, node).await;
            self.counting = began.elapsed();
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

/// Says in each pool that the node is active, if it says there that it is draining.
async fn undo(speaker: &Speaker, end: Instant) -> Result<(), Failure> {
    let node = &speaker.node;
    let change = NodeChange { self_state: Some(NodeState::Active), ..NodeChange::default() };
    for pool in &speaker.pools {
        let record = until(end, async || match speaker.record(pool).await? {
            Some(record) if record.self_state == Some(NodeState::Draining) => {
                speaker.say(pool, &change).await.map(Some)
            }
            record => Ok(record),
        });
        let Some(record) = record.await? else {
            return Err(Failure::Absent(format!("nothing is recorded of node {node} in pool {pool}")));
        };
        say(&format!("{node} is {} in pool {pool}", record.state.name()));
    }
    Ok(())
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
