//! What a root and its streams share: the configuration and, for each pool, the current snapshot.

use std::cell::RefCell;
use std::rc::Rc;

use berth_core::config::{Config, Membership, Pool};
use berth_core::event::Counter;
use berth_core::passive::Failures;
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;

use crate::host;
use crate::metrics::PoolMetrics;
use crate::shared::RosterKey;

/// One configuration at work.
pub(crate) struct Plugin {
    pub(crate) debug_header: bool,
    pub(crate) pools: Vec<LivePool>,
    /// Requests that no pool took.
    pub(crate) bypassed: std::cell::Cell<u64>,
    pub(crate) bypassed_metric: Option<u32>,
    /// Reused for each destination header, so that a hit allocates nothing for it.
    pub(crate) destination: RefCell<Vec<u8>>,
}

/// A configured pool with what is known of it now.
pub(crate) struct LivePool {
    pub(crate) config: Pool,
    pub(crate) key: RosterKey,
    pub(crate) metrics: PoolMetrics,
    snapshot: RefCell<Option<Rc<Snapshot>>>,
    roster: RefCell<Roster>,
    failures: RefCell<Failures>,
}

impl Plugin {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            debug_header: config.debug_header,
            pools: config.pools.into_iter().map(LivePool::new).collect(),
            bypassed: std::cell::Cell::new(0),
            bypassed_metric: host::define_counter(berth_core::event::BYPASSED_STAT),
            destination: RefCell::new(Vec::with_capacity(64)),
        }
    }

    pub(crate) fn flush(&self) {
        for pool in &self.pools {
            pool.metrics.flush();
        }
        let bypassed = self.bypassed.take();
        if bypassed > 0 {
            host::increment(self.bypassed_metric, bypassed);
        }
    }
}

impl LivePool {
    fn new(config: Pool) -> Self {
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
            metrics: PoolMetrics::define(&config.name),
            config,
            snapshot: RefCell::new(None),
            roster: RefCell::default(),
            failures: RefCell::default(),
        }
    }

    pub(crate) fn snapshot(&self) -> Option<Rc<Snapshot>> {
        self.snapshot.borrow().clone()
    }

    /// Catches up with the published roster and with the time.
    pub(crate) fn refresh(&self, now: Millis) {
        let timed = self.snapshot.borrow().as_ref().is_some_and(|snapshot| snapshot.timed);
        let version = self.roster.borrow().version;
        if self.key.version() != version {
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
                let is_member = |node: &str| snapshot.nodes.iter().any(|member| member.address == node);
                self.failures.borrow_mut().retain(is_member);
                *self.snapshot.borrow_mut() = Some(Rc::new(snapshot));
            }
            // The old view stays: better a stale ring than none.
            Err(error) => log::error!("berth: pool {}: {error}; the previous ring stays", self.config.name),
        }
        *self.roster.borrow_mut() = roster;
    }

    /// A request to `node` came to a good end.
    pub(crate) fn succeeded(&self, node: &str) {
        self.failures.borrow_mut().succeeded(node);
    }

    /// A request to `node` failed by the node's fault. At the limit all VMs hear of it, this one at once.
    pub(crate) fn failed(&self, node: &str) {
        let policy = &self.config.health;
        if !self.failures.borrow_mut().failed(node, policy.passive_failures) {
            return;
        }
        let now = host::now();
        self.metrics.count(Counter::PassiveEjections);
        if let Some(roster) = self.key.update(|roster| roster.report_failure(node, policy, now)) {
            self.adopt(roster, now);
        }
    }
}
