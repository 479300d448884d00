//! What a configuration learns of the members and of other proxies, and how it tells the engine: the leader's looks and its
//! feed, what all workers of one Envoy share, what requests said of nodes.

use std::collections::BTreeSet;
use std::rc::Rc;

use berth_core::changelog::News;
use berth_core::feed::{FeedReply, Publication};
use berth_core::health::HealthPolicy;
use berth_core::membership::Observation;
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::SessionKey;

use super::{Owner, Worker};
use crate::fleet::POLL_INTERVAL;
use crate::fleet::shared::{Leadership, Shared};
use crate::mutants::Mutant;

impl Worker {
    pub(super) fn refresh(&mut self, shared: &mut Shared, now: Millis) {
        self.read_changes(shared);
        if self.proxy.pools[0].roster().version == shared.roster.version {
            self.proxy.pools[0].refresh(now).unwrap_or_default();
        } else {
            self.adopt(shared, now);
        }
    }

    fn policy(&self) -> HealthPolicy {
        self.proxy.pools[0].config.health.clone()
    }

    pub(super) fn lead(
        &mut self,
        shared: &mut Shared,
        look: &mut dyn FnMut() -> Option<Vec<Observation>>,
        now: Millis,
    ) {
        match shared.claim_lease(self.number, now) {
            Leadership::Other => return,
            Leadership::Held => {}
            Leadership::Taken => {
                self.next_poll = now;
                if let Some(feed) = &mut self.proxy.pools[0].feed {
                    feed.lead_from(shared.cursor.clone());
                }
            }
        }
        let seen = if shared.mutant == Some(Mutant::UnrenewedCooldown) { now } else { shared.seen };
        while let Some(call) = self.proxy.pools[0].poll_feed_call(|| seen, now) {
            let token = self.send(shared, Owner::Feed, call.request, call.timeout);
            if let Some(feed) = &mut self.proxy.pools[0].feed {
                feed.call_started(call.kind, token);
            }
        }
        let due = now >= self.next_poll || self.next_poll.since(now) > POLL_INTERVAL;
        if !due {
            return;
        }
        self.next_poll = now + POLL_INTERVAL;
        if shared.observe(look(), &self.policy(), now) {
            self.adopt(shared, now);
        }
    }

    fn adopt(&mut self, shared: &mut Shared, now: Millis) {
        // As the others read it.
        let Some(roster) = Roster::decode(&shared.roster.encode()) else {
            shared.wrong.push("the roster cannot be read back".to_owned());
            return;
        };
        if let Err(error) = self.proxy.pools[0].adopt(roster, now) {
            shared.wrong.push(format!("the ring cannot be built: {error}"));
        }
    }

    fn change_roster(
        &mut self,
        shared: &mut Shared,
        now: Millis,
        change: impl FnOnce(&mut Roster, &HealthPolicy) -> bool,
    ) {
        let policy = self.policy();
        if change(&mut shared.roster, &policy) {
            self.adopt(shared, now);
        }
    }

    pub(super) fn review_failures(&mut self, shared: &mut Shared, now: Millis) {
        self.proxy.pools[0].failures.ledger = shared.ledger.clone();
        if shared.ledger.is_empty() {
            return;
        }
        let mut enough = Vec::new();
        let pool = &self.proxy.pools[0];
        let (rules, answers) = (pool.failure_rules(), &pool.failures.answers);
        shared.ledger.review(rules, answers, |node| pool.name_of(node).is_some(), &mut enough, now);
        for node in enough {
            self.put_out(shared, node, now);
        }
    }

    pub(super) fn put_out(&mut self, shared: &mut Shared, node: u64, now: Millis) {
        let name = self.proxy.pools[0].name_of(node).map(str::to_owned);
        if let Some(name) = name {
            shared.bad_looks.entry(name.clone()).or_default().failed(now);
            self.change_roster(shared, now, |roster, policy| roster.report_failure(&name, policy, now));
        }
    }

    pub(super) fn take_feed_reply(&mut self, shared: &mut Shared, mut reply: FeedReply, now: Millis) {
        if shared.mutant == Some(Mutant::SilentRestart)
            && let FeedReply::Records(records) | FeedReply::Publish(Publication { records, .. }) = &mut reply
        {
            records.iter_mut().for_each(|record| record.boot_id = None);
        }
        match reply {
            FeedReply::Nothing => {}
            FeedReply::Records(records) => {
                self.change_roster(shared, now, |roster, policy| roster.record(&records, policy, now));
            }
            FeedReply::Publish(publication) => {
                if publication.is_gap && shared.mutant != Some(Mutant::SilentGap) {
                    shared.log.note_gap();
                }
                shared.log.append(publication.changes);
                let records = publication.records;
                if !records.is_empty() {
                    self.change_roster(shared, now, |roster, policy| roster.record(&records, policy, now));
                }
                shared.cursor = Some(publication.cursor.clone());
                if let Some(feed) = &mut self.proxy.pools[0].feed {
                    feed.published(publication.cursor);
                }
                self.read_changes(shared);
            }
        }
    }

    fn read_changes(&mut self, shared: &Shared) {
        let pool = &mut self.proxy.pools[0];
        if let (Some(feed), Some(engine)) = (&mut pool.feed, &mut pool.engine)
            && feed.is_behind(shared.log.head())
        {
            let mut news = feed.read(&shared.log);
            self.learned.news(&news);
            if let News::Changes(changes) = &mut news {
                let asked = self.calls.keys().filter_map(|call| self.asked.get(call));
                let asked: BTreeSet<SessionKey> = asked.flatten().copied().collect();
                changes.retain(|(key, _)| !asked.contains(key));
            }
            engine.handle_changes(news);
        }
    }

    /// The engine forgets which nodes have left, and with which start of each its sessions began: so many strangers come and go
    /// that there is no room for others.
    pub(super) fn forget_nodes(&mut self, now: Millis) {
        for round in 0..2 {
            let strangers = (0..40).map(|number| Observation {
                address: format!("10.9.{round}.{number}:80"),
                weight: 1,
                ..Observation::default()
            });
            let mut roster = Roster::default();
            roster.observe(strangers.collect(), &self.policy(), now);
            let pool = &mut self.proxy.pools[0];
            let snapshot = Snapshot::build(&roster, pool.config.algorithm, &pool.config.health, now, None);
            if let (Some(engine), Ok(snapshot)) = (&mut pool.engine, snapshot) {
                engine.handle_snapshot(Rc::new(snapshot), now);
            }
        }
    }
}
