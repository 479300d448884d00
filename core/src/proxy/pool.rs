//! A configured pool with what one worker knows of it: members, sessions, failures, counts.

use std::rc::Rc;

use super::issuing::Connections;
use crate::affinity::{Affinity, PoolCounters, Terms};
use crate::config;
use crate::decision::{Decision, PoolPolicy};
use crate::event::{Counter, Outcome, Reason, Unplaced};
use crate::feed::{Feed, FeedCall};
use crate::guard::Guard;
use crate::passive::{Failures, Rules};
use crate::placement::Placement;
use crate::ring::RingError;
use crate::roster::Roster;
use crate::session::SessionId;
use crate::snapshot::Snapshot;
use crate::time::Millis;

/// One pool.
#[derive(Debug)]
pub struct Pool {
    /// Its configuration.
    pub config: config::Pool,
    /// Its sessions, if there is a state service that knows the pool.
    pub engine: Option<Affinity>,
    /// What other proxies do, if there is a state service.
    pub feed: Option<Feed>,
    /// What requests said of its nodes.
    pub failures: Failures,
    /// The leader's latest look found no cluster of its name.
    pub is_cluster_unknown: bool,
    /// Keeps forged headers away.
    pub guard: Guard,
    /// Where its latest sessions began.
    pub(super) connections: Connections,
    snapshot: Option<Rc<Snapshot>>,
    roster: Roster,
    counters: PoolCounters,
}

impl Pool {
    /// A pool without members.
    #[must_use]
    pub fn new(
        config: config::Pool,
        engine: Option<Affinity>,
        has_state: bool,
        guard: config::Guard,
    ) -> Self {
        Self {
            feed: has_state.then(|| Feed::new(&config.name)),
            config,
            engine,
            failures: Failures::default(),
            is_cluster_unknown: false,
            guard: Guard::new(guard),
            connections: Connections::default(),
            snapshot: None,
            roster: Roster::default(),
            counters: PoolCounters::default(),
        }
    }

    /// Takes over what the same pool knew under a former configuration.
    pub fn succeed(&mut self, former: &Self) {
        // The former one goes on to serve for a while, and has to object to what is said of nodes that answer it.
        self.failures = former.failures.clone();
        if let (Some(engine), Some(feed)) = (&mut self.engine, &mut self.feed)
            && let (Some(former), Some(former_feed)) = (&former.engine, &former.feed)
            && engine.succeed(former)
        {
            feed.succeed(former_feed);
        }
    }

    /// The current view of its members.
    #[must_use]
    pub fn snapshot(&self) -> Option<Rc<Snapshot>> {
        self.snapshot.clone()
    }

    /// What that view was built from.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Makes a roster this worker's view.
    ///
    /// # Errors
    /// If its ring cannot be built. The old view stays: a stale ring is better than none.
    pub fn adopt(&mut self, roster: Roster, now: Millis) -> Result<(), RingError> {
        if roster.version == 0 {
            return Ok(());
        }
        let built = self.build(&roster, now);
        self.roster = roster;
        built
    }

    /// Brings the view up to date with the time alone, if that can change it.
    ///
    /// # Errors
    /// As for [`Self::adopt`].
    pub fn refresh(&mut self, now: Millis) -> Result<(), RingError> {
        if !self.snapshot.as_ref().is_some_and(|snapshot| snapshot.timed) {
            return Ok(());
        }
        let roster = std::mem::take(&mut self.roster);
        self.adopt(roster, now)
    }

    fn build(&mut self, roster: &Roster, now: Millis) -> Result<(), RingError> {
        let config::Pool { algorithm, health, .. } = &self.config;
        let snapshot = Rc::new(Snapshot::build(roster, *algorithm, health, now, self.snapshot.as_deref())?);
        self.failures.answers.adopt(snapshot.nodes.iter().map(|node| node.key_hash));
        if let Some(engine) = &mut self.engine {
            engine.handle_snapshot(Rc::clone(&snapshot), now);
            if let Some(feed) = self.feed.as_mut().filter(|_| engine.has_newcomers()) {
                feed.handle_newcomers(now);
            }
        }
        self.snapshot = Some(snapshot);
        Ok(())
    }

    /// The leader's next call of the feed. `seen` tells when Envoy last named the members.
    pub fn poll_feed_call(&mut self, seen: impl FnOnce() -> Millis, now: Millis) -> Option<FeedCall> {
        let roster = &self.roster;
        let cooldowns = || {
            let nodes = roster.cooldowns(seen(), now);
            nodes.map(|(node, until)| (node.to_owned(), until)).collect()
        };
        self.feed.as_mut()?.poll_call(now, cooldowns)
    }

    /// What it makes of failed requests.
    #[must_use]
    pub fn failure_rules(&self) -> Rules {
        Rules::new(self.config.health.passive_failures, self.roster.check_period)
    }

    /// True if this node, known by the hash of its name, is out already.
    #[must_use]
    pub fn is_out(&self, node: u64) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| {
            let index = snapshot.nodes.iter().position(|member| member.key_hash == node);
            index.is_some_and(|index| !snapshot.may_serve(index))
        })
    }

    /// The name of a member, known by its hash.
    #[must_use]
    pub fn name_of(&self, node: u64) -> Option<&str> {
        let nodes = &self.snapshot.as_ref()?.nodes;
        nodes.iter().find(|member| member.key_hash == node).map(|member| member.name.as_str())
    }

    /// Counts something of this pool.
    pub fn count(&self, counter: Counter) {
        self.counters.add(counter.index(), 1);
    }

    /// Everything that was counted since this was last asked, by [`Counter::index`].
    pub fn take_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counters.take().chain(self.engine.iter().flat_map(|engine| engine.counters().take()))
    }

    /// Before the members are known.
    pub(super) fn unseen(&self, terms: &Terms) -> Decision {
        if self.is_cluster_unknown {
            self.unplaced(terms, Unplaced::UnknownCluster, Reason::UnknownCluster)
        } else {
            self.unplaced(terms, Unplaced::NoSnapshot, Reason::NoSnapshot)
        }
    }

    /// Without a place in the ring: Envoy's ring decides, unless only the session's node may.
    pub(super) fn unplaced(&self, terms: &Terms, why: Unplaced, reason: Reason) -> Decision {
        if terms.is_strict {
            PoolPolicy::of(&self.config).withhold(reason)
        } else {
            Decision::Fallback { why, reason }
        }
    }

    /// As if Berth were not there, but for the count of what it would have done.
    pub(super) fn observe(&mut self, id: &SessionId, now: Millis) -> Decision {
        let would = self.would_choose(id, now);
        Decision::Pass { reason: Reason::Observed, would }
    }

    fn would_choose(&mut self, id: &SessionId, now: Millis) -> Option<String> {
        let snapshot = self.snapshot().filter(|snapshot| !snapshot.unsupported)?;
        let pin = self.engine.as_mut().and_then(|engine| engine.known_node(id, now));
        let index = pin.or_else(|| Placement::of(&snapshot, id.hash()).ok()?.indexes().next())?;
        Some(snapshot.nodes.get(index)?.address.clone())
    }

    /// Counts a decision; what becomes of a routed request is counted when the response begins.
    pub(super) fn count_decision(&self, decision: &Decision) {
        match decision {
            Decision::Fallback { why, .. } => {
                self.count(Counter::Requests(Outcome::Ring));
                self.count(Counter::Unplaced(*why));
            }
            Decision::Pass { .. } => self.count(Counter::Requests(Outcome::Sessionless)),
            Decision::Reply(_) => self.count(Counter::Requests(Outcome::Rejected)),
            Decision::Route { .. } | Decision::Bypass => {}
        }
    }

    pub(super) fn count_outcome(&self, outcome: Outcome) {
        self.count(Counter::Requests(outcome));
    }
}
