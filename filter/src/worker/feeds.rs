//! What other proxies did to a pool's sessions: asked of the state service by the leader, published for all VMs, read by each.

use berth_core::feed::{FeedReply, Publication};
use berth_core::time::Millis;
use berth_core::wire::NodeRecord;

use super::Worker;
use crate::host;
use crate::shared::ChangesKey;

impl Worker {
    /// The leader makes the calls of a pool's feed that are due.
    pub(crate) fn lead_feed(&self, pool: usize, now: Millis) {
        let (Some(link), Some(state)) = (self.links.get(pool), &self.state) else { return };
        let next =
            || self.pool(pool).and_then(|mut pool| pool.poll_feed_call(|| link.roster.head().seen, now));
        while let Some(call) = next() {
            let made = host::call(state, &call.request, call.timeout);
            let Some(mut feed) = self.feed(pool) else { return };
            match made {
                Ok(token) => feed.call_started(call.kind, token),
                Err(_) => feed.call_refused(call.kind, now),
            }
        }
    }

    /// This VM leads from now on.
    pub(crate) fn take_over_feeds(&self) {
        for (pool, link) in self.links.iter().enumerate() {
            let cursor = link.changes.as_ref().and_then(ChangesKey::cursor);
            if let Some(mut feed) = self.feed(pool) {
                feed.lead_from(cursor);
            }
        }
    }

    pub(super) fn take_feed_reply(&self, pool: usize, reply: FeedReply, now: Millis) {
        match reply {
            FeedReply::Nothing => {}
            FeedReply::Records(records) => self.record(pool, &records, now),
            FeedReply::Publish(publication) => self.publish(pool, publication, now),
        }
    }

    fn publish(&self, pool: usize, publication: Publication, now: Millis) {
        let Some(key) = self.links.get(pool).and_then(|link| link.changes.as_ref()) else { return };
        let Publication { is_gap, changes, records, cursor } = publication;
        if is_gap || !changes.is_empty() {
            let is_published = key.update(|log| {
                if is_gap {
                    log.note_gap();
                }
                log.append(changes.iter().copied());
            });
            if !is_published {
                return;
            }
        }
        if !records.is_empty() {
            self.record(pool, &records, now);
        }
        if key.cursor().as_ref() != Some(&cursor) {
            key.set_cursor(&cursor);
        }
        if let Some(mut feed) = self.feed(pool) {
            feed.published(cursor);
        }
        self.read_changes(pool);
    }

    /// Reads what was published of other proxies' doing since the last look.
    pub(super) fn read_changes(&self, pool: usize) {
        let Some(key) = self.links.get(pool).and_then(|link| link.changes.as_ref()) else { return };
        let head = key.head();
        if !self.feed(pool).is_some_and(|feed| feed.is_behind(head)) {
            return;
        }
        let log = key.read();
        let news = self.feed(pool).map(|mut feed| feed.read(&log));
        if let (Some(news), Some(mut engine)) = (news, self.engine(pool)) {
            engine.handle_changes(news);
        }
    }

    fn record(&self, pool: usize, records: &[NodeRecord], now: Millis) {
        self.change_roster(pool, now, |roster, policy| roster.record(records, policy, now));
    }
}
