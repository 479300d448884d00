//! One run: a fleet, a store and clients on one clock. What happens next is the earliest entry of one queue, so a seed and a
//! list of faults determine all of it.

mod calls;
mod faults;
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use berth_core::decision::Decision;
use berth_core::event::Outcome;
use berth_core::time::Millis;
use berth_core::wire::SessionKey;

use crate::clients::{POOL, Session, configuration};
use crate::fleet::Host;
use crate::invariants::{Checks, Kind, MEET, Violation, Where};
use crate::mutants::Mutant;
use crate::network::Network;
use crate::nodes::{Nodes, Sight};
use crate::random::Random;
use crate::schedule::{CHAOS_END, Fault, NODES, PROXIES};
use crate::store::Store;

use calls::{Calls, Token};
use requests::Flying;

/// When the clocks start: any time after the longest cooldown will do.
const EPOCH: u64 = 1_700_000_000_000;
/// A proxy that was blind looks again within one poll and one tick.
const NEXT_LOOK: u64 = 1_200;
/// How long all must agree before the run ends.
const AGREEMENT: u64 = 11_000;
/// When a run ends.
pub const END: u64 = CHAOS_END + MEET + AGREEMENT;
/// Sessions at a time.
const SESSIONS: usize = 14;

/// What a run was, and what it found.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// All violations.
    pub found: Vec<Violation>,
    /// What is counted of it.
    pub report: Report,
    /// What happened, if it was to be printed: with the session that a line is about.
    pub story: Vec<(u64, Option<SessionKey>, String)>,
}

/// What is counted of runs.
#[derive(Debug, Default, Clone, Copy)]
pub struct Report {
    /// Requests that were decided.
    pub requests: u64,
    /// Of those, how many a pin at hand decided.
    pub hits: u64,
    /// Calls to the state service.
    pub calls: u64,
    /// Sessions that moved to another node.
    pub moved: u64,
    /// How long after the last fault all agreed.
    pub agreed_after: u64,
}

/// What happens next.
#[derive(Debug)]
pub(crate) enum Next {
    Tick(usize, u64),
    Client(usize),
    Begins(usize),
    Ends(usize),
    Arrives(Token),
    Answers(Token, Result<Vec<u8>, u16>),
    TimesOut(Token),
    PollLooks(u64),
    PollEnds(u64),
    Responds(usize, u32, u32),
    Finishes(usize, u32, u32),
    Leaves(usize, u32, u32),
    IsGone(usize, u32, u32),
    Sends(usize, usize),
    /// What the store lost at that time is to be back.
    Kept(u64),
}

/// One run.
pub(crate) struct Run {
    now: u64,
    queue: BTreeMap<(u64, u64), Next>,
    sequence: u64,
    random: Random,
    mutant: Option<Mutant>,
    faults: Vec<Fault>,
    nodes: Nodes,
    network: Network,
    store: Store,
    store_refuses: u32,
    proxies: Vec<Envoy>,
    sessions: Vec<Session>,
    retired: usize,
    drained: BTreeSet<usize>,
    calls: Calls,
    checks: Checks,
    report: Report,
    story: Option<Vec<(u64, Option<SessionKey>, String)>>,
    configuration: String,
    /// Proxies have too few pins for all sessions.
    forgets_pins: bool,
    /// How many configurations have come to work.
    workers: u32,
}

/// One proxy and what is around it.
struct Envoy {
    host: Host,
    sight: Sight,
    /// Grows with each start: what was on its way to the one before reaches nothing.
    life: u32,
    /// Of the latest tick that is planned.
    ticks: u64,
    /// When the first request waited: from then on the start lasts.
    /// By configuration.
    first_wait: BTreeMap<u32, u64>,
    clock_off: i64,
    had_clock_off: bool,
    clock_changed: u64,
    blind: u32,
    /// When it was last blind.
    blind_until: u64,
    troubles: u32,
    calm_since: u64,
    next_stream: u32,
    flying: BTreeMap<u32, Flying>,
}

/// Runs a seed with these faults.
#[must_use]
pub fn run(seed: u64, faults: &[Fault], mutant: Option<Mutant>, is_told: bool) -> Outcomes {
    let mut run = Run::new(seed, faults, mutant, is_told);
    while let Some(((at, _), next)) = run.queue.pop_first() {
        if at > END {
            break;
        }
        run.now = at;
        run.step(next);
    }
    run.finish()
}

impl Run {
    fn new(seed: u64, faults: &[Fault], mutant: Option<Mutant>, is_told: bool) -> Self {
        let mut random = Random::new(seed, 2);
        let Ok(pool) = POOL.parse() else { unreachable!("it is a name") };
        let max_pins = if random.percent(15) { 6 } else { 10_000 };
        let changes = if random.percent(50) { 6 } else { 200 };
        let mut run = Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            network: Network::new(Random::new(seed, 3)),
            mutant,
            faults: faults.to_vec(),
            nodes: Nodes::default(),
            store: Store::new(pool, changes),
            store_refuses: 0,
            proxies: Vec::new(),
            sessions: Vec::new(),
            retired: 0,
            drained: BTreeSet::new(),
            calls: Calls::default(),
            checks: Checks::new(CHAOS_END + MEET, max_pins < SESSIONS),
            report: Report::default(),
            story: is_told.then(Vec::new),
            configuration: configuration(max_pins),
            forgets_pins: max_pins < SESSIONS,
            workers: 0,
            random,
        };
        for _ in 0..PROXIES {
            let sight = Sight::draw(&mut run.random);
            let host = run.start_envoy(Millis(EPOCH));
            run.proxies.push(Envoy::new(host, sight));
        }
        (0..NODES).for_each(|node| run.start_node(node));
        for proxy in 0..PROXIES {
            let first = run.random.between(0, 20);
            run.plan(first, Next::Tick(proxy, 0));
        }
        for number in 0..SESSIONS {
            run.sessions.push(Session::new(number, requests::kind(number)));
            let first = run.random.between(0, 12_000);
            run.plan(first, Next::Client(number));
        }
        for (index, fault) in faults.iter().enumerate() {
            run.plan(fault.at, Next::Begins(index));
            run.plan(fault.until, Next::Ends(index));
        }
        for number in 0..SESSIONS {
            for proxy in 0..PROXIES {
                let at = CHAOS_END + MEET + 200 + (number * PROXIES + proxy) as u64 * 230;
                run.plan(at, Next::Sends(number, proxy));
            }
        }
        run
    }

    fn step(&mut self, next: Next) {
        match next {
            Next::Tick(proxy, number) => self.tick(proxy, number),
            Next::Client(session) => self.client(session),
            Next::Begins(fault) => self.begin_fault(fault),
            Next::Ends(fault) => self.end_fault(fault),
            Next::Arrives(token) => self.arrive(token),
            Next::Answers(token, body) => self.answer(token, body),
            Next::TimesOut(token) => self.time_out(token),
            Next::PollLooks(poll) => self.look_for_poll(poll, false),
            Next::PollEnds(poll) => self.look_for_poll(poll, true),
            Next::Responds(proxy, life, stream) => self.respond(proxy, life, stream),
            Next::Finishes(proxy, life, stream) | Next::IsGone(proxy, life, stream) => {
                self.finish_request(proxy, life, stream);
            }
            Next::Leaves(proxy, life, stream) => self.leave(proxy, life, stream),
            Next::Sends(session, proxy) => self.send_one(session, proxy),
            Next::Kept(lost_at) => self.kept(lost_at),
        }
    }

    fn tick(&mut self, proxy: usize, number: u64) {
        let (now, local) = (self.now, self.local(proxy));
        let envoy = &mut self.proxies[proxy];
        if envoy.ticks != number {
            return;
        }
        let (nodes, sight, is_blind) = (&self.nodes, envoy.sight, envoy.blind > 0);
        let pause = envoy.host.tick(|| (!is_blind).then(|| nodes.seen(sight, now)), local);
        envoy.ticks += 1;
        let next = Next::Tick(proxy, envoy.ticks);
        for worker in envoy.host.end_done() {
            self.checks.worker_ended(worker, now);
        }
        self.plan(now + pause, next);
        self.settle(proxy);
    }

    /// Takes what a proxy said: calls to make, requests that were decided, faults.
    fn settle(&mut self, proxy: usize) {
        for what in std::mem::take(&mut self.proxies[proxy].host.shared.wrong) {
            self.checks.note(Kind::Owner, self.now, None, format!("proxy {proxy}: {what}"));
        }
        for (key, node) in std::mem::take(&mut self.proxies[proxy].host.shared.outdated) {
            // What was learned may be a write that the store lost.
            if !self.store.lost.contains(&key) {
                let what = format!(
                    "proxy {proxy} sends to {node}, and has learned that another node has it, or that it ended"
                );
                self.checks.note(Kind::Stale, self.now, Some(key), what);
            }
        }
        for stream in std::mem::take(&mut self.proxies[proxy].host.shared.decided) {
            self.decided(proxy, stream);
        }
        for out in std::mem::take(&mut self.proxies[proxy].host.shared.out) {
            self.send(proxy, &out);
        }
        if let Some(calls) = self.proxies[proxy].host.surplus_of_calls() {
            let what = format!("proxy {proxy} has {calls} calls under way");
            self.checks.note(Kind::Memory, self.now, None, what);
        }
    }

    fn decided(&mut self, proxy: usize, stream: u32) {
        let at = self.place_of(proxy, stream);
        let envoy = &self.proxies[proxy];
        let Some(request) = envoy.host.request(stream) else { return };
        let Some(decision) = request.decision.clone() else { return };
        self.report.requests += 1;
        if let Decision::Route { placement, .. } = &decision {
            self.report.hits += u64::from(placement.outcome == Outcome::Hit);
        }
        let snapshot = request.snapshot.clone();
        self.judge_wait(proxy, stream);
        let Some(flying) = self.proxies[proxy].flying.get_mut(&stream) else { return };
        flying.decided += 1;
        let (count, key, waited) = (flying.decided, flying.key, self.now - flying.began);
        if count > 1 {
            let what = format!("a request of proxy {proxy} is decided {count} times");
            self.checks.note(Kind::Request, self.now, Some(key), what);
        }
        self.checks.decided((stream, key), &decision, snapshot.as_deref(), &self.store, waited, at);
        self.tell(Some(key), || {
            let shown = requests::show(&decision, snapshot.as_deref());
            format!("proxy {proxy}: {shown}")
        });
        self.serve(proxy, stream, &decision, snapshot.as_deref());
    }

    fn finish(mut self) -> Outcomes {
        for proxy in 0..PROXIES {
            let at = self.place(proxy);
            let envoy = &self.proxies[proxy];
            let states = envoy.host.states();
            self.checks.ends_at_end(&self.store, envoy.life, at);
            self.checks.at_end(&states, &self.drained, &self.store.lost_nodes, at);
            let late = |flying: &&Flying| flying.decided == 0 && flying.began + 2_000 < at.now;
            let stuck: Vec<SessionKey> =
                envoy.flying.values().filter(late).map(|flying| flying.key).collect();
            for key in stuck {
                let what = format!("a request of proxy {proxy} was never decided");
                self.checks.note(Kind::Request, self.now, Some(key), what);
            }
        }
        self.report.moved = self.checks.moved;
        self.report.agreed_after = self.checks.last_apart.saturating_sub(CHAOS_END);
        Outcomes { found: self.checks.found, report: self.report, story: self.story.unwrap_or_default() }
    }

    pub(crate) fn plan(&mut self, at: u64, next: Next) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), next);
    }

    /// The time of the store.
    pub(crate) fn time(&self) -> Millis {
        Millis(EPOCH + self.now)
    }

    /// The time as a proxy's clock has it.
    pub(crate) fn local(&self, proxy: usize) -> Millis {
        Millis((EPOCH + self.now).saturating_add_signed(self.proxies[proxy].clock_off))
    }

    pub(crate) fn place(&self, proxy: usize) -> Where {
        let envoy = &self.proxies[proxy];
        Where {
            proxy,
            worker: envoy.host.newest().number,
            now: self.now,
            time: self.time(),
            calm_since: (envoy.troubles == 0).then_some(envoy.calm_since),
            is_blind: envoy.blind > 0 || self.now < envoy.blind_until + NEXT_LOOK,
            had_clock_off: envoy.had_clock_off,
        }
    }

    /// The same, of the configuration that has this request.
    pub(crate) fn place_of(&self, proxy: usize, stream: u32) -> Where {
        let at = self.place(proxy);
        let worker = self.proxies[proxy].flying.get(&stream).map_or(at.worker, |flying| flying.worker);
        Where { worker, ..at }
    }

    pub(crate) fn tell(&mut self, key: Option<SessionKey>, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push((self.now, key, line()));
        }
    }
}

impl Envoy {
    fn new(host: Host, sight: Sight) -> Self {
        Self {
            host,
            sight,
            life: 0,
            ticks: 0,
            first_wait: BTreeMap::new(),
            clock_off: 0,
            had_clock_off: false,
            clock_changed: 0,
            blind: 0,
            blind_until: 0,
            troubles: 0,
            calm_since: 0,
            next_stream: 1,
            flying: BTreeMap::new(),
        }
    }
}
