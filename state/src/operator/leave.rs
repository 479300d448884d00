//! `berth leave`: what a pod does before it stops. Its node takes no new sessions, and it waits for those that it has.
//!
//! Each look also asks whether the node is still recorded as draining: a service that lost its records is notified again. A session
//! counts while its pin lives: until it ends, or was not used for its time to live.

use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, CountReply, NodeChange, NodeRecord, NodeState};
use berth_state::given::{Given, time};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::asked::ask;
use super::client::Failure;
use super::itself::{ASK_AGAIN, Itself, Speaker, say, warn};
use super::show::duration;

/// Proxies learn within half a second that a node is draining. A session that came to it before that is counted.
const SETTLED: Duration = Duration::from_secs(1);
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
}

/// Drains the node and waits until it has no sessions.
///
/// # Errors
/// [`Failure::Remaining`] at the deadline, [`Failure::Stopped`] by a signal; [`Failure::Unreachable`] if the service did not
/// answer until the deadline, so that the node is not draining in each pool.
pub(super) async fn leave(itself: &Itself, patience: &Patience) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let speaker = itself.speaker(&mut faults);
    let [deadline, at_least] =
        [&patience.deadline, &patience.at_least].map(|time| time.clone().take(&mut faults));
    let (Some(speaker), Some(deadline), Some(at_least)) = (speaker, deadline, at_least) else {
        return Err(Failure::Usage(faults));
    };

    let began = Instant::now();
    let mut leaving = Leaving {
        speaker,
        draining: 0,
        settled: began,
        at_least: began + Duration::from_millis(at_least.0),
        end: began + Duration::from_millis(deadline.0),
        last: Left::Unknown,
        counting: Duration::ZERO,
        is_away: false,
    };
    tokio::select! {
        biased;
        (number, name) = stopped() => {
            let node = &leaving.speaker.node;
            Err(Failure::Stopped(number, format!("{name}: no longer waits for the sessions of {node}")))
        }
        left = leaving.wait() => left,
    }
}

/// The first signal that says to stop.
async fn stopped() -> (u8, &'static str) {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Then the signal ends the process as it does any other.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => (15, "SIGTERM"),
        () = wait(SignalKind::interrupt()) => (2, "SIGINT"),
    }
}

/// How many sessions the node has, in all of its pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// They were not counted since it is draining.
    Unknown,
    Counted(u64),
    /// The store has more than one count looks at.
    AtLeast(u64),
}

struct Leaving {
    speaker: Speaker,
    /// In so many of the pools it is recorded.
    draining: usize,
    /// From then on all proxies know.
    settled: Instant,
    at_least: Instant,
    end: Instant,
    last: Left,
    /// How long the last count took.
    counting: Duration,
    is_away: bool,
}

impl Leaving {
    async fn wait(&mut self) -> Result<(), Failure> {
        let mut reason = "no answer in time".to_owned();
        loop {
            match timeout_at(self.end, self.look()).await {
                // Another one counts: nodes that leave together take turns.
                Ok(Err(Failure::Busy(why))) => reason = why,
                Ok(Err(Failure::Unreachable(why))) => {
                    if !self.is_away {
                        warn(&format!("{why}; trying again each second"));
                    }
                    (self.is_away, reason) = (true, why);
                }
                Ok(Err(failure)) => return Err(failure),
                Ok(Ok(left)) => {
                    if self.is_away {
                        warn("the service answers again");
                    }
                    self.is_away = false;
                    self.note(left);
                    if left == Left::Counted(0) && Instant::now() >= self.at_least {
                        return Ok(());
                    }
                }
                // The deadline, which is looked at below.
                Err(_) => {}
            }
            let now = Instant::now();
            let pause = if self.is_away { ASK_AGAIN } else { ASK_AGAIN.max(self.counting * REST) };
            // What is waited for anyway may be sooner than the next look.
            let next = (now + pause).min(self.end);
            sleep_until(if self.at_least > now { next.min(self.at_least) } else { next }).await;
            if Instant::now() >= self.end {
                return Err(self.at_the_end(&reason));
            }
        }
    }

    /// Says that the node is draining, and counts its sessions once all proxies know.
    async fn look(&mut self) -> Result<Left, Failure> {
        let Speaker { client, node, pools } = &self.speaker;
        let change = NodeChange { self_state: Some(NodeState::Draining), ..NodeChange::default() };
        for (position, pool) in pools.iter().enumerate() {
            // Each change is in the service's log, also one that changes nothing.
            let recorded = ask(client, &ApiRequest::node(pool.as_str(), node)).await;
            match recorded {
                Ok(NodeRecord { self_state: Some(NodeState::Draining), .. }) => {}
                Ok(_) | Err(Failure::Absent(_)) => drop(self.speaker.say(pool, &change).await?),
                Err(failure) => return Err(failure),
            }
            if self.draining == position {
                self.draining += 1;
                self.settled = Instant::now() + SETTLED;
                say(&format!("{node} is draining in pool {pool}"));
            }
        }
        sleep_until(self.settled).await;
        let began = Instant::now();
        let (mut sum, mut is_complete) = (0, true);
        for pool in pools {
            let reply: CountReply = ask(client, &ApiRequest::counts(pool.as_str())).await?;
            sum += reply.nodes.get(node).copied().unwrap_or(0);
            is_complete &= reply.complete;
        }
        self.counting = began.elapsed();
        Ok(if is_complete { Left::Counted(sum) } else { Left::AtLeast(sum) })
    }

    /// Prints how many are left if that has changed.
    fn note(&mut self, left: Left) {
        if left != self.last {
            let time = self.end.saturating_duration_since(Instant::now());
            let time = duration(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            say(&format!("{}, {time} until the deadline", sessions(left)));
        }
        self.last = left;
    }

    fn at_the_end(&self, reason: &str) -> Failure {
        let node = &self.speaker.node;
        match self.speaker.pools.get(self.draining) {
            Some(pool) => Failure::Unreachable(format!("{reason}; {node} is not draining in pool {pool}")),
            None if self.last == Left::Counted(0) => Failure::Remaining(format!(
                "the deadline has passed before --at-least; {node} has no sessions left"
            )),
            None => {
                let left = sessions(self.last);
                Failure::Remaining(format!("the deadline has passed: {node} has {left}"))
            }
        }
    }
}

fn sessions(left: Left) -> String {
    match left {
        Left::Unknown => "sessions that could not be counted".to_owned(),
        Left::Counted(1) => "1 session left".to_owned(),
        Left::Counted(0) => "no sessions left".to_owned(),
        Left::Counted(count) => format!("{count} sessions left"),
        Left::AtLeast(count) => {
            format!("at least {count} sessions left; the store has more than are counted")
        }
    }
}
