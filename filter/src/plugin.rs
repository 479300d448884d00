//! What a root and its streams share: the configuration and, for each pool, the current snapshot.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use berth_core::changelog::News;
use berth_core::config::{Config, Membership, Pool, StateCluster};
use berth_core::event::Counter;
use berth_core::passive::{Failure, Failures, Ledger, Noted, Rules};
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

use crate::feed::Feed;
use crate::host;
use crate::metrics::PoolMetrics;
use crate::pinned::{Home, Pinned, Share};
use crate::request::Ticket;
use crate::rules::LiveRule;
use crate::shared::{FailuresKey, RosterKey};
use crate::tokens::Tokens;
use crate::waiting::{Need, WaitingRoom};

/// While requests wait: what is queued goes out, and what is overdue goes on, with the next tick.
const HURRIED_TICKS: Millis = Millis(10);

/// One configuration at work.
pub(crate) struct Plugin {
    pub(crate) debug_header: bool,
    pub(crate) pools: Vec<LivePool>,
    pub(crate) rules: Vec<LiveRule>,
    /// Some rule does more than look on.
    pub(crate) enforces: bool,
    pub(crate) tokens: Tokens,
    /// Requests that no pool took.
    pub(crate) bypassed: Cell<u64>,
    pub(crate) bypassed_metric: Option<u32>,
    /// Reused for each destination header, so that a hit allocates nothing for it.
    pub(crate) destination: RefCell<Vec<u8>>,
    /// The time of the latest tick: exact enough for a hit, and free.
    pub(crate) now: Cell<Millis>,
    /// Requests that cannot be decided yet.
    pub(crate) waiting: RefCell<WaitingRoom>,
    /// Ticks are short, because requests wait or it has just begun.
    hurried: Cell<bool>,
}

/// A configured pool with what is known of it now.
pub(crate) struct LivePool {
    pub(crate) config: Pool,
    pub(crate) key: RosterKey,
    pub(crate) metrics: PoolMetrics,
    snapshot: RefCell<Option<Rc<Snapshot>>>,
    roster: RefCell<Roster>,
    failures: RefCell<Failures>,
    failures_key: FailuresKey,
    /// What has been said of the cluster, and is not said again.
    warned: Cell<[bool; 2]>,
    /// With a state cluster.
    pub(crate) pinned: Option<RefCell<Pinned>>,
    pub(crate) feed: Option<RefCell<Feed>>,
}

thread_local! {
    /// The latest configuration of this VM. On a reload the new root shares it with the old one.
    static LATEST: RefCell<Weak<Plugin>> = const { RefCell::new(Weak::new()) };
}

impl Plugin {
    /// Takes over what the previous configuration knew of sessions: a reload is no reason to ask about all of them.
    pub(crate) fn succeed(self: &Rc<Self>) {
        let Some(previous) = LATEST.replace(Rc::downgrade(self)).upgrade() else { return };
        for pool in &self.pools {
            if let Some(old) = previous.pools.iter().find(|old| old.config.name == pool.config.name) {
                pool.succeed(old);
            }
        }
    }

    pub(crate) fn new(config: Config) -> Self {
        let state = config.state.map(Rc::new);
        let rules: Vec<LiveRule> = config.rules.into_iter().map(LiveRule::new).collect();
        let calls = state.as_ref().map_or(0, |state| state.max_calls.div_ceil(config.pools.len().max(1)));
        let share = |place: usize| {
            let rules = rules.iter().filter(|rule| rule.config.pool == place);
            Share { calls, shortest_ttl: rules.filter_map(|rule| rule.config.session.ttl).min() }
        };
        let pools = config.pools.into_iter().enumerate();
        Self {
            debug_header: config.debug_header,
            pools: pools.map(|(place, pool)| LivePool::new(pool, state.as_ref(), share(place))).collect(),
            tokens: Tokens::new(config.jwt_providers, config.wanted),
            enforces: rules.iter().any(|rule| rule.enforces()),
            rules,
            bypassed: Cell::new(0),
            bypassed_metric: host::define_counter(berth_core::event::BYPASSED_STAT),
            destination: RefCell::new(Vec::with_capacity(64)),
            now: Cell::new(host::now()),
            waiting: RefCell::default(),
            hurried: Cell::new(true),
        }
    }

    /// A rule with its pool.
    pub(crate) fn rule(&self, index: usize) -> Option<(&LiveRule, &LivePool)> {
        let rule = self.rules.get(index)?;
        Some((rule, self.pools.get(rule.config.pool)?))
    }

    /// A request waits.
    pub(crate) fn hurry(&self) {
        if !self.hurried.replace(true) {
            host::set_tick_period(HURRIED_TICKS);
        }
    }

    /// Has the request that is being decided wait for what it needs, if it may.
    pub(crate) fn wait(&self, home: Home, need: Need) -> Option<Ticket> {
        let now = host::now();
        let ticket = self.waiting.borrow_mut().enter(home, need, now)?;
        if let Need::Snapshot(pool) = need
            && let Some(pinned) = self.pools.get(pool).and_then(|pool| pool.pinned.as_ref())
        {
            pinned.borrow_mut().begin_start(now);
        }
        self.hurry();
        Some(ticket)
    }

    /// Requests wait, for what is to be learnt or for the state cluster.
    pub(crate) fn has_waiters(&self) -> bool {
        let asks = |pool: &LivePool| pool.pinned.as_ref().is_some_and(|pinned| pinned.borrow().has_waiters());
        !self.waiting.borrow().is_empty() || self.pools.iter().any(asks)
    }

    /// Nobody waits. True if ticks were short until now.
    pub(crate) fn calm_down(&self) -> bool {
        self.hurried.take()
    }

    pub(crate) fn flush(&self) {
        for pool in &self.pools {
            pool.metrics.flush();
        }
        for rule in &self.rules {
            rule.flush();
        }
        self.tokens.flush();
        let bypassed = self.bypassed.take();
        if bypassed > 0 {
            host::increment(self.bypassed_metric, bypassed);
        }
    }
}

impl LivePool {
    fn new(config: Pool, state: Option<&Rc<StateCluster>>, share: Share) -> Self {
        let pinned = state.and_then(|state| Pinned::new(&config.name, state, share));
        let feed = state.map(|state| Feed::new(&config.name, state));
        let source = match &config.membership {
            Membership::Cluster(cluster) => cluster.clone(),
            Membership::Static(members) => {
                // Another list is another source: health of the old one must not be taken for the new one's.
                let text: Vec<&str> = members.iter().map(|member| member.address.as_str()).collect();
                format!("static/{:x}", berth_core::ring::session_hash(text.join(",").as_bytes()))
            }
        };
        Self {
            key: RosterKey::new(&config.name, &source),
            failures_key: FailuresKey::new(&config.name, &source),
            metrics: PoolMetrics::define(&config.name),
            config,
            snapshot: RefCell::new(None),
            roster: RefCell::default(),
            failures: RefCell::default(),
            warned: Cell::default(),
            pinned: pinned.map(RefCell::new),
            feed: feed.map(RefCell::new),
        }
    }

    fn succeed(&self, old: &Self) {
        self.failures.swap(&old.failures);
        if let (Some(pinned), Some(feed)) = (&self.pinned, &self.feed)
            && let (Some(old_pinned), Some(old_feed)) = (&old.pinned, &old.feed)
            && pinned.borrow_mut().succeed(&old_pinned.borrow())
        {
            feed.borrow_mut().succeed(&old_feed.borrow());
        }
    }

    pub(crate) fn snapshot(&self) -> Option<Rc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Catches up with what is published, and with the time.
    pub(crate) fn refresh(&self, now: Millis) {
        if let Some(news) = self.feed.as_ref().and_then(|feed| feed.borrow_mut().news()) {
            self.hear(news);
        }
        let timed = self.snapshot.borrow().as_ref().is_some_and(|snapshot| snapshot.timed);
        let version = self.roster.borrow().version;
        if self.key.head().0 != version {
            if let Some(roster) = self.key.read() {
                self.adopt(roster, now);
            }
        } else if timed {
            let roster = self.roster.take();
            self.adopt(roster, now);
        }
    }

    /// Makes `roster` this VM's view.
    pub(crate) fn adopt(&self, roster: Roster, now: Millis) {
        if roster.version == 0 {
            return;
        }
        let previous = self.snapshot();
        match Snapshot::build(&roster, self.config.algorithm, &self.config.health, now, previous.as_deref()) {
            Ok(snapshot) => {
                self.failures.borrow_mut().answers.adopt(snapshot.nodes.iter().map(|node| node.key_hash));
                if let Some(pinned) = &self.pinned {
                    pinned.borrow_mut().adopt(&snapshot, now);
                }
                *self.snapshot.borrow_mut() = Some(Rc::new(snapshot));
            }
            // The old view stays: better a stale ring than none.
            Err(error) => log::error!("berth: pool {}: {error}; the previous ring stays", self.config.name),
        }
        *self.roster.borrow_mut() = roster;
    }

    /// Says once what keeps the pool's cluster from being what its pins need.
    pub(crate) fn warn(&self, cluster: &str, complaint: Option<&str>, bad_name: Option<&str>) {
        let [mut complained, mut misnamed] = self.warned.get();
        // Another leader has said it.
        complained |= self.roster.borrow().unsupported;
        let advice = complaint.filter(|_| !std::mem::replace(&mut complained, true));
        let names = "hashes hosts by name; those go by their address whose name tells no node apart, such as";
        let names = bad_name.filter(|_| !std::mem::replace(&mut misnamed, true)).map(|bad| (names, bad));
        for (what, detail) in advice.map(|advice| (advice, "")).into_iter().chain(names) {
            log::warn!("berth: pool {}: cluster {cluster} {what} {detail}", self.config.name);
        }
        self.warned.set([complained, misnamed]);
    }

    /// What other proxies did to this pool's pins.
    pub(crate) fn hear(&self, news: News) {
        if let Some(pinned) = &self.pinned {
            pinned.borrow_mut().hear(self, news);
        }
    }

    /// A call of the pool came to its end. False if it was not one of the pool's.
    pub(crate) fn answered(&self, plugin: &Plugin, token: u32, body: host::Answer<'_>, home: Home) -> bool {
        let feed = self.feed.as_ref().filter(|_| home.stream.is_none());
        feed.is_some_and(|feed| feed.borrow_mut().answered(self, token, body.ok(), host::now()))
            || self
                .pinned
                .as_ref()
                .is_some_and(|pinned| pinned.borrow_mut().answered(plugin, self, token, body, home))
    }

    /// Which nodes are in a cooldown that was seen here, until when; none of a priority in panic.
    pub(crate) fn cooldowns(&self, now: Millis) -> Vec<(String, Millis)> {
        let roster = self.roster.borrow();
        // Old knowledge does not renew itself: of a node that is still unhealthy the cooldown runs from the last look.
        roster.cooldowns(self.key.head().1, now).map(|(node, until)| (node.to_owned(), until)).collect()
    }

    /// The node at `place` of a snapshot answered a request of this session. That costs no call, unless the node has
    /// failures on record.
    pub(crate) fn succeeded(&self, place: usize, node: u64, session: u64, now: Millis) {
        if self.failures.borrow_mut().answered(place, node, session, now) {
            self.keep_record(|ledger| ledger.answered(node));
        }
    }

    /// A request of this session failed by the node's fault. If that is enough all VMs hear of it, this one at once.
    pub(crate) fn failed(&self, failure: &Failure) {
        let is_out = self.snapshot().is_some_and(|snapshot| {
            let place = snapshot.nodes.iter().position(|node| node.key_hash == failure.node);
            place.is_some_and(|place| !snapshot.may_serve(place))
        });
        // It was on its way before the node was put out.
        if is_out {
            return;
        }
        let (now, rules) = (host::now(), self.rules());
        let mut noted = Noted::Unchanged;
        let is_kept = self.keep_record(|ledger| {
            noted = ledger.failed(failure, rules, &self.failures.borrow().answers, now);
            noted != Noted::Unchanged
        });
        if is_kept && noted == Noted::Enough {
            self.put_out(failure.node, now);
        }
    }

    /// Compares the failures on record with the answers that this VM remembers.
    pub(crate) fn review_failures(&self, now: Millis) {
        let record = self.failures_key.read();
        let (is_empty, rules) = (record.is_empty(), self.rules());
        self.failures.borrow_mut().ledger = record;
        let Some(snapshot) = self.snapshot().filter(|_| !is_empty) else { return };
        let is_member = |node| snapshot.nodes.iter().any(|member| member.key_hash == node);
        let mut enough = Vec::new();
        let is_kept = self.keep_record(|ledger| {
            enough.clear();
            ledger.review(rules, &self.failures.borrow().answers, is_member, &mut enough, now)
        });
        for node in enough.into_iter().filter(|_| is_kept) {
            self.put_out(node, now);
        }
    }

    fn rules(&self) -> Rules {
        Rules::new(self.config.health.passive_failures, self.roster.borrow().check_period)
    }

    /// Changes the record of failures. False if others kept getting in between.
    fn keep_record(&self, change: impl FnMut(&mut Ledger) -> bool) -> bool {
        let record = self.failures_key.update(change);
        let is_kept = record.is_some();
        if let Some(record) = record {
            self.failures.borrow_mut().ledger = record;
        }
        is_kept
    }

    fn put_out(&self, node: u64, now: Millis) {
        let Some(snapshot) = self.snapshot() else { return };
        let Some(node) = snapshot.nodes.iter().find(|member| member.key_hash == node) else { return };
        self.metrics.count(Counter::PassiveEjections);
        let policy = &self.config.health;
        if let Some(roster) = self.key.update(|roster| roster.report_failure(&node.name, policy, now)) {
            self.adopt(roster, now);
        }
    }
}
