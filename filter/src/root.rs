//! Once per VM: configuration, ticks, and in the leader's VM the polling of Envoy's admin interface.
//!
//! Envoy configures N+2 VMs (workers, main thread, a canary that is thrown away) and on a reload puts a new root beside
//! the old one in the same VM. So `on_configure` writes nothing that others see, and all state is the root's own.

use std::rc::Rc;

use berth_core::cluster::ClusterFacts;
use berth_core::config::{Config, Membership};
use berth_core::event::{Counter, PollResult};
use berth_core::health::HealthPolicy;
use berth_core::membership::Hosts;
use berth_core::ring::session_hash;
use berth_core::roster::Roster;
use berth_core::time::Millis;
use berth_core::token::MAX_JWKS;
use berth_core::watch::{Sight, Watch};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::host;
use crate::shared::{Leadership, Lease};
use crate::stream::Stream;
use crate::worker::{Link, Worker};

/// A look at the membership takes Envoy's main thread 9 µs a host; at 2 % of its time that is 0.45 ms a host.
const MICROS_PER_HOST: u64 = 450;
/// Within it the leader's death must be noticed too, so ticks are a quarter of the interval, but neither so frequent
/// that they show nor so rare that another worker's news waits.
const TICK: std::ops::RangeInclusive<u64> = 25..=250;
/// What other proxies did to a pin must be learned soon.
const LONGEST_TICK_WITH_PINS: u64 = 100;
/// Until the first snapshot is there each tick counts: requests wait for it, or go by Envoy's own ring so long.
const FIRST_TICKS: Millis = Millis(5);
/// A pool without a snapshot after this time has a fault that frequent ticks do not cure.
const FIRST_TICKS_END: Millis = Millis(2000);
/// After so long without a look at the members what Envoy last said of their health is not believed any longer. At least
/// three polls.
const BLIND_AFTER: Millis = Millis(30_000);

/// The admin interface answers whatever host it is asked for, if that is a valid one; a cluster's name may not be.
const ADMIN_HOST: &str = "localhost";

/// The root context.
pub(crate) struct Root {
    id: u32,
    live: Option<Live>,
}

impl Root {
    pub(crate) fn new(id: u32) -> Self {
        Self { id, live: None }
    }
}

/// What there is once a configuration was accepted.
struct Live {
    worker: Rc<Worker>,
    poll_interval: Millis,
    admin_cluster: String,
    watch: Watch,
    lease: Lease,
    next_poll: Millis,
    since: Millis,
    /// Every pool has had a snapshot, or time enough for it.
    settled: bool,
    /// The time between two ticks when nothing is urgent.
    tick: Millis,
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body_size: usize, _trailers: usize) {
        let Some(live) = &mut self.live else { return };
        if live.watch.is_asking(token) {
            let now = host::now();
            let answer = host::answer_body(headers, body_size);
            let sight = live.watch.handle_reply(token, answer.as_deref(), now);
            if live.follow(sight.unwrap_or(Sight::Nothing), now) {
                live.worker.take_ready(self.id, now);
            }
            return;
        }
        let worker = &live.worker;
        if let Some(issuer) = worker.issuer_of_call(token) {
            // Of more the first byte says enough.
            let body = host::answer_body(headers, body_size.min(MAX_JWKS + 1));
            worker.handle_keys(issuer, body.as_deref(), host::now());
            worker.take_ready(self.id, host::now());
            return;
        }
        let body = host::answer_body(headers, body_size);
        let body = body.as_deref();
        (0..worker.links.len()).any(|pool| worker.handle_reply(pool, token, body, self.id));
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let json = host::plugin_configuration(size).unwrap_or_default();
        let config = match Config::parse(&json) {
            Ok(config) => config,
            Err(faults) => {
                let list: Vec<String> = faults.iter().map(ToString::to_string).collect();
                log::error!("berth: the configuration has {} fault(s): {}", list.len(), list.join("; "));
                return false;
            }
        };
        let live = Live::new(config, self.id);
        live.worker.succeed();
        host::set_tick_period(FIRST_TICKS);
        // After a reload the roster is there already: no request has to wait for the first tick.
        live.refresh(host::now());
        self.live = Some(live);
        true
    }

    fn on_tick(&mut self) {
        if let Some(live) = &mut self.live {
            let now = host::now();
            live.worker.proxy.borrow_mut().handle_tick(now);
            live.refresh(now);
            live.lead(now);
            live.worker.tick_issuers(now);
            for pool in 0..live.worker.links.len() {
                live.worker.review_failures(pool, now);
                live.worker.tick_engine(pool, self.id, now);
            }
            // After it: what they begin to wait for now is younger than this tick, and would be taken for overdue.
            live.worker.take_ready(self.id, now);
            live.worker.flush(now);
            live.pace(now);
        }
    }

    /// No queue is ever asked for: this is [`host::enter`].
    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(live) = &self.live {
            live.worker.make_call();
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let worker = self.live.as_ref().map(|live| Rc::clone(&live.worker));
        Some(Box::new(Stream::new(id, worker)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Live {
    fn new(config: Config, root: u32) -> Self {
        let polled =
            config.pools.iter().filter_map(|pool| Some((polled(&pool.membership)?, pool.name.as_str())));
        let watch = Watch::new(&config.admin_cluster, &polled.collect::<Vec<_>>());
        // Roots with the same sources share the polling, others do not: during a reload both poll.
        let pools: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
        let source = format!("{}/{}", watch.source(), pools.join(","));
        let holder =
            host::random().map_or_else(String::new, |id| format!("{:032x}", u128::from_le_bytes(id)));
        let longest = if config.state.is_some() { LONGEST_TICK_WITH_PINS } else { *TICK.end() };
        let tick = Millis((config.poll_interval.0 / 4).clamp(*TICK.start(), longest));
        Self {
            lease: Lease::new(&format!("{:x}", session_hash(source.as_bytes())), holder),
            poll_interval: config.poll_interval,
            admin_cluster: config.admin_cluster.clone(),
            watch,
            worker: Rc::new(Worker::new(config, root)),
            next_poll: Millis(0),
            since: host::now(),
            settled: false,
            tick,
        }
    }

    fn refresh(&self, now: Millis) {
        self.worker.refresh(now);
    }

    /// Ends the fast ticks once every pool has a snapshot and no request waits.
    fn pace(&mut self, now: Millis) {
        let proxy = self.worker.proxy.borrow();
        self.settled |= proxy.pools.iter().all(|pool| pool.snapshot().is_some())
            || FIRST_TICKS_END.is_over(self.since, now);
        if self.settled && !proxy.has_waiters() && self.worker.stop_fast_ticks() {
            host::set_tick_period(self.tick);
        }
    }

    /// Polls when it is due and this VM is the one to do it.
    fn lead(&mut self, now: Millis) {
        let interval = self.interval();
        match self.lease.claim(now, interval + Millis(interval.0 / 2)) {
            Leadership::Other => return,
            Leadership::Held => {}
            Leadership::Taken => {
                self.next_poll = now;
                self.count(Counter::LeaderChanges);
                self.worker.take_over_feeds();
            }
        }
        for pool in 0..self.worker.links.len() {
            self.worker.lead_feed(pool, now);
        }
        // A clock that was set back would otherwise stop the polling.
        let due = now >= self.next_poll || self.next_poll.since(now) > interval;
        if !due || self.watch.is_under_way() {
            return;
        }
        self.next_poll = now + interval;
        self.look_at_static(now);
        let is_polled = self.worker.links.iter().any(|link| link.cluster.is_some());
        if is_polled {
            self.watch.look();
            self.follow(Sight::Nothing, now);
        }
    }

    /// Makes the calls of a look, and folds it into the rosters when it is over. True if it is.
    fn follow(&mut self, mut sight: Sight, now: Millis) -> bool {
        while let Some(call) = self.watch.poll_call() {
            match host::get(&self.admin_cluster, ADMIN_HOST, &call.path, call.timeout) {
                Ok(token) => self.watch.call_started(token),
                Err(failure) => match self.watch.call_refused(&failure, now) {
                    Sight::Nothing => {}
                    seen @ Sight::Look(_) => sight = seen,
                },
            }
        }
        while let Some(event) = self.watch.poll_event() {
            log::warn!("berth: {event}");
        }
        let Sight::Look(hosts) = sight else { return false };
        self.learn(hosts.as_ref(), now);
        true
    }

    /// The configured interval, stretched for large clusters, and for an Envoy that shows those of others too.
    fn interval(&self) -> Millis {
        let polled = self.links().filter(|(_, link)| link.cluster.is_some());
        let count = |(pool, _)| self.worker.pool(pool).map_or(0, |pool| pool.roster().nodes.len());
        let hosts: usize = polled.map(count).sum();
        self.poll_interval.max(Millis(hosts as u64 * MICROS_PER_HOST / 1000)).max(self.watch.least_interval())
    }

    fn look_at_static(&self, now: Millis) {
        for (pool, link) in self.links() {
            let members = self.worker.pool(pool).and_then(|pool| match &pool.config.membership {
                Membership::Static(members) => Some(members.clone()),
                Membership::Cluster(_) => None,
            });
            if let Some(members) = members {
                let observe =
                    |roster: &mut Roster, policy: &HealthPolicy| roster.observe(members.clone(), policy, now);
                self.worker.change_roster(pool, now, observe);
                link.roster.note_look(now);
                self.show(pool, link, now);
            }
        }
    }

    /// Folds a look into the rosters. What is not known stays as it was.
    fn learn(&self, look: Option<&Hosts>, now: Millis) {
        let nothing_special = ClusterFacts::default();
        for (pool, link) in self.links() {
            let Some(cluster) = &link.cluster else { continue };
            let clusters = self.watch.facts();
            let facts = clusters.and_then(|clusters| clusters.get(cluster));
            let mut observed = look.and_then(|look| look.get(self.watch.place(cluster)?).cloned().flatten());
            let result = match (look, &observed) {
                (None, _) => PollResult::Failed,
                (Some(_), None) => PollResult::UnknownCluster,
                (Some(_), Some(_)) => PollResult::Ok,
            };
            self.worker.count(pool, Counter::Polls(result));
            if result == PollResult::UnknownCluster {
                link.roster.note_unknown();
            }
            if let Some(hosts) = &mut observed {
                let bad_name = facts.unwrap_or(&nothing_special).apply(hosts);
                let complaint = facts.and_then(ClusterFacts::complaint);
                self.worker.warn(pool, cluster, complaint, bad_name.as_deref());
            }
            let seen = link.roster.head().seen;
            let is_blind = now.since(seen) > BLIND_AFTER.max(Millis(self.interval().0.saturating_mul(3)));
            let mut is_seen = false;
            self.worker.change_roster(pool, now, |roster, policy| {
                let is_lost = is_blind && roster.lose_sight(seen, policy, now);
                // Without them nodes would be others than they were.
                let may_observe = facts.is_some() || !roster.relies_on_facts();
                let hosts = observed.as_ref().filter(|_| may_observe);
                is_seen = hosts.is_some();
                let is_other = is_seen && roster.learn(facts, self.watch.is_current());
                let is_changed = match hosts {
                    Some(hosts) => roster.observe_after((seen, self.interval()), hosts.clone(), policy, now),
                    None => roster.reassess(policy, now),
                };
                is_lost || is_other || is_changed
            });
            if is_seen {
                link.roster.note_look(now);
            }
            self.show(pool, link, now);
        }
    }

    fn show(&self, pool: usize, link: &Link, now: Millis) {
        if let Some(snapshot) = self.worker.pool(pool).and_then(|pool| pool.snapshot()) {
            link.metrics.show(&snapshot, now.since(link.roster.head().seen));
        }
    }

    fn links(&self) -> impl Iterator<Item = (usize, &Link)> {
        self.worker.links.iter().enumerate()
    }

    fn count(&self, counter: Counter) {
        for (pool, _) in self.links() {
            self.worker.count(pool, counter);
        }
    }
}

fn polled(membership: &Membership) -> Option<&str> {
    match membership {
        Membership::Cluster(cluster) => Some(cluster),
        Membership::Static(_) => None,
    }
}
