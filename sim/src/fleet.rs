//! One Envoy with one worker, in which each reload puts another configuration beside the one before.
//!
//! It carries out what they say and decides nothing. What is to leave it, calls and decisions, is taken by the run.

mod shared;
mod worker;

use std::collections::BTreeMap;

use berth_core::affinity::CallFailure;
use berth_core::cluster::Clusters;
use berth_core::event::CallResult;
use berth_core::health::State;
use berth_core::membership::Observation;
use berth_core::proxy::Request;
use berth_core::time::Millis;
use berth_core::wire::ApiRequest;

use crate::clients::{Answer, Headers, MAX_CALLS};
use crate::mutants::Mutant;
use crate::random::Random;

pub use shared::{BadLooks, Shared};
pub use worker::Worker;

/// As `filter/src/root.rs` has them.
const POLL_INTERVAL: Millis = Millis(1_000);
const FAST_TICK: u64 = 10;
const TICK: u64 = 100;
const BLIND_AFTER: Millis = Millis(30_000);
/// Beside lookups: a touch, a refresh, sixteen ends, and three of the feed.
const MOST_CALLS: usize = MAX_CALLS + 1 + 1 + 16 + 3;

/// A call to make.
#[derive(Debug)]
pub struct Out {
    /// Its answer has to bear this.
    pub token: u32,
    /// What to send.
    pub request: ApiRequest,
    /// How long to wait.
    pub timeout: u64,
    /// The proxy was in panic when it asked.
    pub in_panic: bool,
}

/// One Envoy.
pub struct Host {
    /// What its workers share.
    pub shared: Shared,
    /// The configurations at work, the oldest first.
    workers: Vec<Worker>,
}

impl Host {
    /// One that starts now.
    #[must_use]
    pub fn new(config: &str, number: u32, random: &mut Random, mutant: Option<Mutant>, now: Millis) -> Self {
        let dump = r#"{"configs":[{"dynamic_active_clusters":[{"cluster":{"name":"nodes","type":"EDS","health_checks":[{
            "timeout":"0.2s","interval":"0.4s","no_traffic_interval":"0.4s","unhealthy_threshold":2,"healthy_threshold":1}]}}]}]}"#;
        let Some(clusters) = Clusters::read(dump.as_bytes()) else { unreachable!("the dump is right") };
        let workers = vec![Worker::new(config, number, random, now)];
        Self { shared: Shared::new(clusters, mutant), workers }
    }

    /// A new configuration comes to work. The former one goes on, and may even get new requests from connections that it has.
    /// Returns the numbers of the former one and of the new one.
    pub fn reload(&mut self, config: &str, number: u32, random: &mut Random, now: Millis) -> (u32, u32) {
        let mut worker = Worker::new(config, number, random, now);
        let former = &self.workers[self.workers.len() - 1];
        let before = former.number;
        worker.succeed(former, &mut self.shared, now);
        self.workers.push(worker);
        (before, number)
    }

    /// The oldest configuration that gets new requests gets none from now on, unless it is the only one.
    pub fn close_oldest(&mut self) {
        let last = self.workers.len() - 1;
        if let Some(oldest) = self.workers[..last].iter_mut().find(|worker| worker.is_open) {
            oldest.is_open = false;
        }
    }

    /// The configurations that have nothing to do any more end. Returns their numbers.
    pub fn end_done(&mut self) -> Vec<u32> {
        let done: Vec<u32> =
            self.workers.iter().filter(|worker| worker.is_done()).map(|w| w.number).collect();
        self.workers.retain(|worker| !worker.is_done());
        done
    }

    /// The configurations at work.
    #[must_use]
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Just after a reload: where this session surely was as far as the former configuration knows, and where it is as far as
    /// the new one knows.
    pub fn known(&mut self, id: &[u8], now: Millis) -> Option<(String, Option<String>)> {
        let (new, former) = self.workers.split_last_mut()?;
        let before = former.last_mut()?.surely_known(&mut self.shared, id, now)?;
        Some((before, new.known_node(id, now)))
    }

    /// Whether this session surely is at that node until then, as far as any configuration at work knows.
    pub fn knows(&mut self, id: &[u8], node: &str, until: Millis) -> bool {
        self.workers.iter_mut().any(|worker| worker.known_node(id, until).is_some_and(|known| known == node))
    }

    /// The latest configuration.
    #[must_use]
    pub fn newest(&self) -> &Worker {
        &self.workers[self.workers.len() - 1]
    }

    /// The numbers of those that get new requests.
    #[must_use]
    pub fn open(&self) -> Vec<u32> {
        self.workers.iter().filter(|worker| worker.is_open).map(|worker| worker.number).collect()
    }

    /// A request under way.
    #[must_use]
    pub fn request(&self, stream: u32) -> Option<&Request> {
        self.workers.iter().find_map(|worker| worker.requests.get(&stream))
    }

    /// Time passed. `look` is what Envoy says of its hosts. Returns when the next tick is due.
    pub fn tick(&mut self, mut look: impl FnMut() -> Option<Vec<Observation>>, now: Millis) -> u64 {
        let shared = &mut self.shared;
        let pauses = self.workers.iter_mut().map(|worker| worker.tick(shared, &mut look, now));
        pauses.min().unwrap_or(TICK)
    }

    /// A request comes to the configuration of this number. True if it waits and ticks were slow until now.
    pub fn begin(&mut self, number: u32, stream: u32, headers: Headers, now: Millis) -> bool {
        let worker = self.workers.iter_mut().find(|worker| worker.number == number);
        worker.is_some_and(|worker| worker.begin(&mut self.shared, stream, headers, now))
    }

    /// A call came to its end.
    pub fn reply(&mut self, token: u32, body: Result<&[u8], &CallFailure>, clock_jumped: bool, now: Millis) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.expects(token).is_some()) {
            worker.reply(&mut self.shared, token, body, clock_jumped, now);
        }
    }

    /// The response of a request begins.
    pub fn respond(&mut self, stream: u32, answer: &Answer, ends: bool, now: Millis) {
        if let Some(worker) = of(&mut self.workers, stream) {
            worker.respond(&mut self.shared, stream, answer, ends, now);
        }
    }

    /// The client of a request leaves: from here on nothing reaches the stream.
    pub fn leave(&mut self, stream: u32) {
        if let Some(worker) = of(&mut self.workers, stream) {
            worker.leave(stream);
        }
    }

    /// The worker learns that a request ended.
    pub fn gone(&mut self, stream: u32) {
        if let Some(worker) = of(&mut self.workers, stream) {
            worker.gone(&self.shared, stream);
        }
    }

    /// The configuration that the answer to this call reaches.
    #[must_use]
    pub fn expects(&self, token: u32) -> Option<u32> {
        let worker = self.workers.iter().find(|worker| worker.expects(token) == Some(true));
        worker.map(|worker| worker.number)
    }

    /// How many calls are under way, if they are more than there may be.
    #[must_use]
    pub fn surplus_of_calls(&self) -> Option<usize> {
        self.workers.iter().map(Worker::calls).find(|calls| *calls > MOST_CALLS)
    }

    /// The states of all members as this proxy sees them, by name.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, State> {
        self.newest().states()
    }
}

fn of(workers: &mut [Worker], stream: u32) -> Option<&mut Worker> {
    workers.iter_mut().find(|worker| worker.requests.contains_key(&stream))
}

/// A call that was not answered.
#[must_use]
pub fn failure(status: Option<u16>) -> CallFailure {
    match status {
        Some(status) => CallFailure {
            result: CallResult::Failed,
            is_missing: status == 404,
            is_refused: status == 400,
            size: 0,
            detail: format!("status {status}"),
        },
        None => CallFailure {
            result: CallResult::TimedOut,
            is_missing: false,
            is_refused: false,
            size: 0,
            detail: "no answer".to_owned(),
        },
    }
}
