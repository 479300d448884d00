//! Once per VM: configuration, ticks, and in the leader's VM the polling of Envoy's admin interface.
//!
//! Envoy configures N+2 VMs (workers, main thread, a canary that is thrown away) and on a reload puts a new root beside
//! the old one in the same VM. So `on_configure` writes nothing that others see, and all state is the root's own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use berth_core::cluster::ClusterFacts;
use berth_core::config::{Config, Membership};
use berth_core::event::{Counter, PollResult};
use berth_core::membership::Hosts;
use berth_core::ring::session_hash;
use berth_core::time::Millis;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::feed::Feed;
use crate::host;
use crate::pinned::Home;
use crate::plugin::{LivePool, Plugin};
use crate::shared::{Leadership, Lease};
use crate::stream::Stream;
use crate::waiting;
use crate::watch::{Sight, Watch};

/// A look at the membership takes Envoy's main thread 9 µs a host; at 2 % of its time that is 0.45 ms a host.
const MICROS_PER_HOST: u64 = 450;
/// Within it the leader's death must be noticed too, so ticks are a quarter of the interval, but neither so frequent
/// that they show nor so rare that another worker's news waits.
const TICK: std::ops::RangeInclusive<u64> = 25..=250;
/// What other proxies did to a pin must be heard of soon.
const LONGEST_TICK_WITH_PINS: u64 = 100;
/// Until the first snapshot is there each tick counts: requests wait for it, or go by Envoy's own ring so long.
const FIRST_TICKS: Millis = Millis(5);
/// A pool without a snapshot after this time has a fault that no haste cures.
const HASTE: Millis = Millis(2000);
/// After so long without a look at the members what Envoy last said of their health is not believed any longer. At least
/// three polls.
const BLIND_AFTER: Millis = Millis(30_000);

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
    plugin: Rc<Plugin>,
    poll_interval: Millis,
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
            if let Sight::Look(hosts) = live.watch.answered(answer.as_deref(), now) {
                live.learn(hosts.as_ref(), now);
                waiting::let_in(&live.plugin, self.id, now);
            }
            return;
        }
        let body = host::answer_body(headers, body_size);
        let body = body.as_deref();
        let home = Home { context: self.id, stream: None, deciding: false, waited: 0 };
        let plugin = &live.plugin;
        if plugin.tokens.answered(token, body, host::now()) {
            waiting::let_in(plugin, self.id, host::now());
            return;
        }
        plugin.pools.iter().any(|pool| pool.answered(plugin, token, body, home));
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
        let live = Live::new(config);
        live.plugin.succeed();
        host::set_tick_period(FIRST_TICKS);
        // After a reload the roster is there already: no request has to wait for the first tick.
        live.refresh(host::now());
        self.live = Some(live);
        true
    }

    fn on_tick(&mut self) {
        if let Some(live) = &mut self.live {
            let now = host::now();
            live.plugin.now.set(now);
            live.refresh(now);
            live.lead(now);
            live.plugin.tokens.tick(now);
            live.plugin.pools.iter().for_each(|pool| pool.review_failures(now));
            live.look_after_pins(self.id, now);
            // After it: what they begin to wait for now is younger than this tick, and would be taken for overdue.
            waiting::let_in(&live.plugin, self.id, now);
            live.plugin.flush();
            live.pace(now);
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let plugin = self.live.as_ref().map(|live| Rc::clone(&live.plugin));
        Some(Box::new(Stream::new(id, plugin)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Live {
    fn new(config: Config) -> Self {
        let clusters: BTreeSet<&str> =
            config.pools.iter().filter_map(|pool| polled(&pool.membership)).collect();
        let watch = Watch::new(&config.admin_cluster, clusters.into_iter().map(str::to_owned).collect());
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
            watch,
            plugin: Rc::new(Plugin::new(config)),
            next_poll: Millis(0),
            since: host::now(),
            settled: false,
            tick,
        }
    }

    fn refresh(&self, now: Millis) {
        for pool in &self.plugin.pools {
            pool.refresh(now);
        }
    }

    fn look_after_pins(&self, root: u32, now: Millis) {
        for pool in &self.plugin.pools {
            if let Some(pinned) = &pool.pinned {
                pinned.borrow_mut().tick(&self.plugin, pool, root, now);
            }
        }
    }

    /// Ends the quick ticks once every pool has a snapshot, or nobody waits any more.
    fn pace(&mut self, now: Millis) {
        self.settled |= self.plugin.pools.iter().all(|pool| pool.snapshot().is_some())
            || now < self.since
            || now.since(self.since) >= HASTE;
        if self.settled && !self.plugin.has_waiters() && self.plugin.calm_down() {
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
                self.feeds().for_each(|(_, feed)| feed.borrow_mut().take_over());
            }
        }
        self.feeds().for_each(|(pool, feed)| feed.borrow_mut().lead(pool, now));
        // A clock that was set back would otherwise stop the polling.
        let due = now >= self.next_poll || self.next_poll.since(now) > interval;
        if !due || self.watch.is_under_way() {
            return;
        }
        self.next_poll = now + interval;
        self.look_at_static(now);
        let is_polled = self.plugin.pools.iter().any(|pool| polled(&pool.config.membership).is_some());
        if is_polled && !self.watch.look() {
            self.learn(None, now);
        }
    }

    fn feeds(&self) -> impl Iterator<Item = (&LivePool, &RefCell<Feed>)> {
        self.plugin.pools.iter().filter_map(|pool| Some((pool, pool.feed.as_ref()?)))
    }

    /// The configured interval, stretched for large clusters.
    fn interval(&self) -> Millis {
        let hosts: usize = self
            .plugin
            .pools
            .iter()
            .filter(|pool| polled(&pool.config.membership).is_some())
            .filter_map(|pool| pool.snapshot().map(|snapshot| snapshot.nodes.len()))
            .sum();
        self.poll_interval.max(Millis(hosts as u64 * MICROS_PER_HOST / 1000))
    }

    fn look_at_static(&self, now: Millis) {
        for pool in &self.plugin.pools {
            if let Membership::Static(members) = &pool.config.membership {
                let policy = &pool.config.health;
                let roster = pool.key.update(|roster| roster.observe(members.clone(), policy, now));
                if let Some(roster) = roster {
                    pool.adopt(roster, now);
                }
                pool.key.note_look(now);
                self.show(pool, now);
            }
        }
    }

    /// Folds a look into the rosters. What is not known stays as it was.
    fn learn(&self, look: Option<&Hosts>, now: Millis) {
        let nothing_special = ClusterFacts::default();
        for pool in &self.plugin.pools {
            let Some(cluster) = polled(&pool.config.membership) else { continue };
            let clusters = self.watch.facts();
            let facts = clusters.and_then(|clusters| clusters.get(cluster));
            let mut observed = look.and_then(|look| look.get(self.watch.place(cluster)?).cloned().flatten());
            let policy = &pool.config.health;
            let result = match (look, &observed) {
                (None, _) => PollResult::Failed,
                (Some(_), None) => PollResult::UnknownCluster,
                (Some(_), Some(_)) => PollResult::Ok,
            };
            pool.metrics.count(Counter::Polls(result));
            if let Some(hosts) = &mut observed {
                let bad_name = facts.unwrap_or(&nothing_special).apply(hosts);
                let complaint = facts.and_then(ClusterFacts::complaint);
                pool.warn(cluster, complaint, bad_name.as_deref());
            }
            let seen = pool.key.head().1;
            let is_blind = now.since(seen) > BLIND_AFTER.max(Millis(self.interval().0.saturating_mul(3)));
            let mut is_seen = false;
            let roster = pool.key.update(|roster| {
                let is_lost = is_blind && roster.lose_sight(seen, policy, now);
                // Without them nodes would be others than they were.
                let may_observe = facts.is_some() || !roster.relies_on_facts();
                let hosts = observed.as_ref().filter(|_| may_observe);
                is_seen = hosts.is_some();
                let is_other = is_seen && roster.learn(facts, self.watch.is_current());
                let is_changed = match hosts {
                    Some(hosts) => roster.observe(hosts.clone(), policy, now),
                    None => roster.reassess(policy, now),
                };
                is_lost || is_other || is_changed
            });
            if let Some(roster) = roster {
                pool.adopt(roster, now);
            }
            if is_seen {
                pool.key.note_look(now);
            }
            self.show(pool, now);
        }
    }

    fn show(&self, pool: &LivePool, now: Millis) {
        if let Some(snapshot) = pool.snapshot() {
            pool.metrics.show(&snapshot);
            pool.metrics.show_membership_age(now.since(pool.key.head().1));
        }
    }

    fn count(&self, counter: Counter) {
        for pool in &self.plugin.pools {
            pool.metrics.count(counter);
        }
    }
}

fn polled(membership: &Membership) -> Option<&str> {
    match membership {
        Membership::Cluster(cluster) => Some(cluster),
        Membership::Static(_) => None,
    }
}
