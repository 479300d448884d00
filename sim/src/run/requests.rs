//! Requests from their beginning to their end: who sends them, which node serves them, and when their clients leave.

use berth_core::decision::Decision;
use berth_core::snapshot::Snapshot;
use berth_core::wire::SessionKey;

use super::{Next, Run, SESSIONS};
use crate::clients::{Answer, Kind as Sort, Session};
use crate::invariants::{DECIDED, Kind, STARTED};
use crate::schedule::{CHAOS_END, PROXIES};

/// Envoy's response flag of a connection that failed.
const CONNECT: u64 = 1 << 5;

/// A request under way.
#[derive(Debug)]
pub(crate) struct Flying {
    pub(crate) key: SessionKey,
    pub(crate) began: u64,
    pub(crate) decided: u32,
    /// The configuration that has it.
    pub(crate) worker: u32,
    sort: Sort,
    answer: Answer,
    /// The node answers that it was sent to.
    is_reached: bool,
    has_left: bool,
}

impl Flying {
    fn new(sort: Sort) -> Self {
        let key = SessionKey::new("", b"");
        let answer = Answer::default();
        Self { key, began: 0, decided: 0, worker: 0, sort, answer, is_reached: false, has_left: false }
    }
}

/// The kind of the session of this number.
pub(crate) fn kind(number: usize) -> Sort {
    match number % 7 {
        0 => Sort::Strict,
        1 | 2 => Sort::Token,
        3 => Sort::Long,
        _ => Sort::Plain,
    }
}

impl Run {
    /// A client sends its next request.
    pub(super) fn client(&mut self, number: usize) {
        let next = self.now + self.random.between(100, 1_900);
        self.plan(next, Next::Client(number));
        let proxy = self.random.index(PROXIES);
        if self.random.percent(2) && self.now < CHAOS_END {
            self.sessions[number].version += 1;
        }
        // As a page that loads does.
        if self.random.percent(40) {
            for _ in 0..self.random.between(1, 3) {
                let after = self.random.between(0, 3);
                self.plan(self.now + after, Next::Sends(number, proxy));
            }
        }
        self.request(number, proxy);
    }

    /// A client sends a request beside others; or faults are over, and each session is sent through each proxy.
    pub(super) fn send_one(&mut self, number: usize, proxy: usize) {
        self.request(number, proxy);
    }

    fn request(&mut self, number: usize, proxy: usize) {
        let session = &self.sessions[number];
        let (headers, key, sort) = (session.headers(), session.key, session.kind);
        let (now, local) = (self.now, self.local(proxy));
        let open = self.proxies[proxy].host.open();
        // Connections from before a reload stay with the former configuration until they are closed.
        let worker = if open.len() > 1 { open[self.random.index(open.len())] } else { open[0] };
        let envoy = &mut self.proxies[proxy];
        let stream = envoy.next_stream;
        envoy.next_stream += 1;
        let life = envoy.life;
        let flying = Flying { key, began: now, decided: 0, worker, ..Flying::new(sort) };
        envoy.flying.insert(stream, flying);
        let mut waits = false;
        let ticks_too_slowly = envoy.host.begin(worker, stream, headers, local);
        if envoy.host.request(stream).is_some_and(|request| request.decision.is_none()) {
            envoy.first_wait.entry(worker).or_insert(now);
            waits = true;
        }
        if ticks_too_slowly {
            envoy.ticks += 1;
            let next = Next::Tick(proxy, envoy.ticks);
            self.plan(now + 10, next);
        }
        // Most clients that leave do so while they wait.
        if self.random.percent(if waits { 50 } else { 4 }) {
            let after = if self.random.percent(50) { 1 } else { self.random.between(2, 20) };
            self.plan(self.now + after, Next::Leaves(proxy, life, stream));
        }
        self.settle(proxy);
    }

    /// Judges how long a request waited for its decision.
    pub(super) fn judge_wait(&mut self, proxy: usize, stream: u32) {
        let envoy = &self.proxies[proxy];
        let Some(flying) = envoy.flying.get(&stream) else { return };
        let started = envoy.first_wait.get(&flying.worker).map_or(0, |first| first + STARTED);
        let (waited, limit) = (self.now - flying.began, started.max(flying.began + DECIDED));
        let key = flying.key;
        if self.now > limit {
            let what = format!("a request of proxy {proxy} was decided after {waited} ms");
            self.checks.note(Kind::Request, self.now, Some(key), what);
        }
    }

    /// A request was decided: it goes to a node, or is over.
    pub(super) fn serve(
        &mut self,
        proxy: usize,
        stream: u32,
        decision: &Decision,
        snapshot: Option<&Snapshot>,
    ) {
        let life = self.proxies[proxy].life;
        let Decision::Route { placement, .. } = decision else {
            let next = Next::Finishes(proxy, life, stream);
            return self.plan(self.now + 1, next);
        };
        let seen = self.nodes.seen(self.proxies[proxy].sight, self.now);
        let mut answer = Answer { address: None, flags: CONNECT, attempts: 0 };
        let first = snapshot.and_then(|view| Some(placement.nodes(view).next()?.address.clone()));
        for node in snapshot.into_iter().flat_map(|view| placement.nodes(view)) {
            // Envoy passes over a host that it does not have.
            if !seen.iter().any(|host| host.address == node.address) {
                continue;
            }
            answer.attempts += 1;
            answer.address = Some(node.address.clone());
            if self.nodes.answers_at(&node.address).is_some() {
                answer.flags = 0;
                break;
            }
        }
        if let Some(flying) = self.proxies[proxy].flying.get_mut(&stream) {
            flying.is_reached = answer.flags == 0 && answer.address == first;
            flying.answer = answer;
        }
        let after = self.random.between(2, 30);
        self.plan(self.now + after, Next::Responds(proxy, life, stream));
    }

    /// A response begins.
    pub(super) fn respond(&mut self, proxy: usize, life: u32, stream: u32) {
        let local = self.local(proxy);
        if self.proxies[proxy].life != life {
            return;
        }
        let Some(flying) = self.proxies[proxy].flying.get(&stream).filter(|flying| !flying.has_left) else {
            return;
        };
        let (answer, key, sort) = (flying.answer.clone(), flying.key, flying.sort);
        self.checks.answered(key, stream, flying.is_reached, flying.worker);
        let ends = answer.flags == 0 && self.now < CHAOS_END && self.random.percent(2);
        if ends {
            self.tell(Some(key), || format!("proxy {proxy} learns that the session is over"));
            self.retire(key, proxy, stream);
        }
        self.proxies[proxy].host.respond(stream, &answer, ends, local);
        let lasts = match sort {
            Sort::Long if answer.flags == 0 => self.random.between(2_000, 25_000),
            _ => self.random.between(1, 40),
        };
        self.plan(self.now + lasts, Next::Finishes(proxy, life, stream));
        self.settle(proxy);
    }

    /// Another session begins in place of one that is over.
    fn retire(&mut self, key: SessionKey, proxy: usize, stream: u32) {
        let (life, at) = (self.proxies[proxy].life, self.place_of(proxy, stream));
        self.checks.says_ended(key, at, life);
        let Some(number) = self.sessions.iter().position(|session| session.key == key) else { return };
        self.retired += 1;
        self.sessions[number] = Session::new(SESSIONS + self.retired, kind(number));
    }

    /// A client leaves. The worker is notified a moment later.
    pub(super) fn leave(&mut self, proxy: usize, life: u32, stream: u32) {
        if self.proxies[proxy].life != life {
            return;
        }
        let Some(flying) = self.proxies[proxy].flying.get_mut(&stream) else { return };
        flying.has_left = true;
        self.proxies[proxy].host.leave(stream);
        let after = if self.random.percent(50) { 0 } else { self.random.between(1, 8) };
        self.plan(self.now + after, Next::IsGone(proxy, life, stream));
    }

    /// The worker is notified that a request ended.
    pub(super) fn finish_request(&mut self, proxy: usize, life: u32, stream: u32) {
        let envoy = &mut self.proxies[proxy];
        if envoy.life != life {
            return;
        }
        if let Some(flying) = envoy.flying.remove(&stream) {
            self.checks.answered(flying.key, stream, false, flying.worker);
            envoy.host.gone(stream);
        }
    }
}

/// A decision in words.
pub(super) fn show(decision: &Decision, snapshot: Option<&Snapshot>) -> String {
    match decision {
        Decision::Route { placement, notice } => {
            let node = snapshot.and_then(|view| placement.nodes(view).next()).map(|node| node.name.as_str());
            let notice = notice.as_ref().map(|notice| format!(", notified \"{notice}\"")).unwrap_or_default();
            let (node, outcome) = (node.unwrap_or("no node"), placement.outcome.name());
            format!("sends to {node} ({outcome}, {:?}{notice})", placement.reason)
        }
        Decision::Reply(reply) => format!("answers {} ({:?})", reply.status, reply.reason),
        other => format!("{other:?}"),
    }
}
