//! What the root does for the pins on each tick: overdue requests, touches, ends, and the news of other proxies.

use std::collections::VecDeque;

use berth_core::breaker::Permit;
use berth_core::changelog::{News, superseding};
use berth_core::event::{CallResult, Counter, Dropped};
use berth_core::pins::WireKey;
use berth_core::session::SessionId;
use berth_core::time::Millis;
use berth_core::wire::{MAX_TOUCHED, SessionKey, TouchReply, TouchRequest};

use super::answer::believed_until;
use super::{Home, Pinned};
use crate::host;
use crate::plugin::{LivePool, Plugin};

/// Touches and ends hold nobody up.
const TIMEOUT: Millis = Millis(1_000);
/// After a call that failed.
pub(super) const PAUSE: Millis = Millis(1_000);
/// Ends under way at once.
const ENDS: usize = 16;
/// An end that failed so often is left to the pin's time to live.
const TRIES: u8 = 10;
/// Ends that wait while the state cluster is away; the oldest are left to their time to live.
const MAX_ENDING: usize = 10_000;

/// What is under way for pins that nobody waits for.
#[derive(Default)]
pub(super) struct Upkeep {
    /// How long pins live in the store, as it last said.
    ttl: Millis,
    /// The shortest time that any rule lets a session live unused.
    shortest_ttl: Option<Millis>,
    touch: Option<u32>,
    /// In the call, or to be called again.
    touched: Vec<WireKey>,
    ending: VecDeque<Ending>,
    ends: Vec<(u32, Ending)>,
    pub(super) not_before: Millis,
}

struct Ending {
    key: SessionKey,
    tries: u8,
}

impl Upkeep {
    pub(super) fn new(shortest_ttl: Option<Millis>) -> Self {
        Self { shortest_ttl, ..Self::default() }
    }
}

impl Pinned {
    /// When a pin that is told, or touched, now is no longer to be relied on.
    pub(super) fn pin_expires(&mut self, ttl: Millis, now: Millis) -> Millis {
        if self.upkeep.ttl != ttl {
            self.upkeep.ttl = ttl;
            // Three chances to be touched in that time.
            let shortest = self.upkeep.shortest_ttl.map_or(ttl, |shortest| shortest.min(ttl));
            let interval = self.state.pins.touch_interval.min(Millis(shortest.0 / 4));
            self.pins.touch_every(interval);
            self.in_use.look_every(Millis(interval.0 / 2));
        }
        believed_until(ttl, now)
    }

    /// To be called on each tick of the root.
    pub(crate) fn tick(&mut self, plugin: &Plugin, pool: &LivePool, root: u32, now: Millis) {
        let home = Home { context: root, stream: None, deciding: false, waited: 0 };
        let overdue = self.flights.overdue(now);
        if self.flights.take_failed_start() {
            self.start_failed(now);
        }
        if !overdue.is_empty() {
            overdue.iter().for_each(|_| pool.metrics.count(Counter::StateCalls(CallResult::TimedOut)));
            self.release(plugin, pool, overdue, None, home, now);
        }
        self.send(plugin, pool, home, now);
        self.note_in_use(now);
        // A clock that was set back must not stop it.
        if now >= self.upkeep.not_before || self.upkeep.not_before.since(now) > PAUSE {
            self.touch(now);
            self.renew(pool, now);
            self.end_next();
        }
        pool.metrics.show_pins(self.pins.len(), self.breaker.is_open());
        pool.metrics.add(Counter::Dropped(Dropped::Pin), self.pins.take_dropped(now));
    }

    /// What other proxies did.
    pub(crate) fn hear(&mut self, pool: &LivePool, news: News) {
        match news {
            News::Missed => {
                self.epoch = self.epoch.wrapping_add(1);
                // A leader's first look counts as a gap too, and at the start there is nothing to lose by it.
                if !self.pins.is_empty() {
                    self.pins.expire_all();
                    pool.metrics.count(Counter::Resyncs);
                }
            }
            News::Changes(changes) => {
                for (key, version) in changes {
                    let wire = WireKey::from(key);
                    match superseding(version) {
                        Some(session_version) => self.pins.supersede(wire, session_version),
                        None => self.pins.outdate(wire, version),
                    };
                    self.doubt_answers_of(key);
                }
            }
        }
    }

    /// An answer that is under way may be from before a change.
    fn doubt_answers_of(&mut self, key: SessionKey) {
        if self.flights.request(key.into()).is_some() || self.renewal.asks_about(key) {
            self.epoch = self.epoch.wrapping_add(1);
        }
    }

    /// The backend says that the session is over.
    pub(crate) fn end(&mut self, pool: &LivePool, id: &SessionId) {
        let key = SessionKey::new(self.pool.as_str(), id.as_bytes());
        self.pins.remove_by_wire(key.into());
        self.doubt_answers_of(key);
        self.upkeep.ending.push_back(Ending { key, tries: 0 });
        if self.upkeep.ending.len() > MAX_ENDING {
            self.upkeep.ending.pop_front();
            pool.metrics.count(Counter::Dropped(Dropped::End));
        }
        pool.metrics.count(Counter::Ended);
    }

    /// A touch or an end came to its end. False if it was neither.
    pub(super) fn upkeep_answered(
        &mut self,
        pool: &LivePool,
        token: u32,
        body: host::Answer<'_>,
        now: Millis,
    ) -> bool {
        if self.upkeep.touch == Some(token) {
            self.upkeep.touch = None;
            let reply = body.ok().and_then(|json| serde_json::from_slice::<TouchReply>(json).ok());
            self.note_answer(pool, body, reply.is_some(), now);
            match reply {
                Some(reply) => self.touched(&reply, now),
                None => self.upkeep.not_before = now + PAUSE,
            }
            return true;
        }
        let Some(place) = self.upkeep.ends.iter().position(|(call, _)| *call == token) else { return false };
        let (_, ending) = self.upkeep.ends.swap_remove(place);
        // 404 is an answer too: what was to end is no more.
        let body = if body.is_err_and(|failure| failure.is_missing) { Ok(&[][..]) } else { body };
        self.note_answer(pool, body, true, now);
        if body.is_err() {
            self.upkeep.not_before = now + PAUSE;
            if ending.tries < TRIES {
                self.upkeep.ending.push_back(Ending { tries: ending.tries + 1, ..ending });
            } else {
                pool.metrics.count(Counter::Dropped(Dropped::End));
            }
        }
        true
    }

    fn touched(&mut self, reply: &TouchReply, now: Millis) {
        let expires = self.pin_expires(Millis(reply.ttl_ms), now);
        for key in std::mem::take(&mut self.upkeep.touched) {
            let own = reply.ttls_ms.get(&SessionKey::from(key));
            self.pins.prolong(key, own.map_or(expires, |ttl| believed_until(Millis(*ttl), now)));
        }
        // Lost or expired there: ask again, and say where they were.
        for key in &reply.missing {
            self.pins.prolong(WireKey::from(*key), Millis(0));
        }
    }

    fn touch(&mut self, now: Millis) {
        if self.upkeep.touch.is_some() {
            return;
        }
        if self.upkeep.touched.is_empty() {
            self.upkeep.touched = self.pins.due_for_touch(now, MAX_TOUCHED);
        }
        if self.upkeep.touched.is_empty() || self.breaker.allow(now) == Permit::Deny {
            return;
        }
        let keys = self.upkeep.touched.iter().map(|key| SessionKey::from(*key)).collect();
        let request = TouchRequest { pool: self.pool.clone(), keys };
        let body = serde_json::to_vec(&request).unwrap_or_default();
        self.upkeep.touch = host::call(&self.state, "POST", "/v1/touch", &body, TIMEOUT).ok();
        if self.upkeep.touch.is_none() {
            self.upkeep.not_before = now + PAUSE;
        }
    }

    fn end_next(&mut self) {
        while self.upkeep.ends.len() < ENDS
            && let Some(ending) = self.upkeep.ending.pop_front()
        {
            let path = format!("/v1/sessions/{}?pool={}", ending.key, self.pool);
            match host::call(&self.state, "DELETE", &path, &[], TIMEOUT) {
                Ok(token) => self.upkeep.ends.push((token, ending)),
                Err(_) => return self.upkeep.ending.push_front(ending),
            }
        }
    }
}
