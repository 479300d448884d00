//! The keys that an issuer publishes, fetched by one VM for all.
//!
//! What was fetched, when it was tried last and when it is due again stands in shared data; whoever finds it due and
//! writes first fetches. A fetch that fails leaves the keys as they are: they are good until the issuer says otherwise.

use berth_core::affinity::CallFailure;
use berth_core::config::{JwtProvider, RemoteKeys, Verification};
use berth_core::counters::Counters;
use berth_core::event;
use berth_core::ring::session_hash;
use berth_core::time::Millis;
use berth_core::token::Keys;

use crate::host;
use crate::metrics::Metrics;
use crate::shared::{KeySetHead, KeySetKey};

/// From the end of one look on, a token with an unknown key may ask for newer ones after this time, whoever sends how many.
const REFETCH: Millis = Millis(5_000);
/// After a fetch that failed; less if keys are refreshed more often.
const RETRY: Millis = Millis(5_000);
/// A fetch that nobody has ended after its timeout and this was another VM's, which is no more.
const LOST: Millis = Millis(1_000);

/// One issuer, as this VM knows it.
pub(crate) struct Issuer {
    name: String,
    remote: RemoteKeys,
    key: KeySetKey,
    call: Option<u32>,
    /// Of the key set in use.
    hash: u64,
    /// A request waits for newer keys.
    is_wanted: bool,
    /// Fetches that failed, and that succeeded.
    fetches: Counters<2>,
    metrics: Metrics<2>,
}

impl Issuer {
    /// The issuer of a provider, if it publishes its keys.
    pub(crate) fn of(provider: &JwtProvider) -> Option<Self> {
        let Verification::Remote(_, remote) = &provider.verification else { return None };
        let names = [false, true].map(|is_good| event::jwks_stat(&provider.name, is_good));
        Some(Self {
            name: provider.name.clone(),
            remote: remote.clone(),
            key: KeySetKey::new(&remote.cluster, &remote.host, &remote.path),
            call: None,
            hash: 0,
            is_wanted: false,
            fetches: Counters::default(),
            metrics: Metrics::define(names.into_iter()),
        })
    }

    /// Fetches if it is due. Returns keys that are new to this VM.
    pub(crate) fn tick(&mut self, now: Millis) -> Option<Keys> {
        let (head, token) = self.key.head();
        let lost = self.remote.timeout + LOST;
        let is_under_way = head.is_under_way && head.tried <= now && now.since(head.tried) < lost;
        // A clock that was set back must not stop it.
        let is_due = now >= head.due || head.due.since(now) > self.remote.refresh + lost;
        let may_hurry = self.is_wanted && may_try(head, now);
        if !is_under_way && (is_due || may_hurry) {
            self.fetch(token, head, now);
        }
        self.is_wanted = false;
        self.news()
    }

    fn fetch(&mut self, token: Option<u32>, head: KeySetHead, now: Millis) {
        let claimed = KeySetHead { tried: now, due: now + self.retry(), is_under_way: true, ..head };
        if !self.key.set_head(claimed, token) {
            return;
        }
        let RemoteKeys { cluster, host, path, timeout, .. } = &self.remote;
        match host::get(cluster, host, path, *timeout) {
            Ok(call) => self.call = Some(call),
            Err(failure) => self.end(Err(&failure.detail), now),
        }
    }

    /// A call came to its end. False if it was not this one.
    pub(crate) fn answered(&mut self, call: u32, body: Result<&[u8], &CallFailure>, now: Millis) -> bool {
        if self.call != Some(call) {
            return false;
        }
        self.call = None;
        let body = body.map_err(|failure| failure.detail.as_str());
        let set = body.and_then(|body| match Keys::from_jwks(body) {
            Ok(_) => Ok(body),
            Err(_) => Err("the answer is no key set with keys to verify by"),
        });
        self.end(set, now);
        true
    }

    fn end(&mut self, set: Result<&[u8], &str>, now: Millis) {
        self.fetches.add(usize::from(set.is_ok()), 1);
        let (head, token) = self.key.head();
        let head = match set {
            Ok(body) => {
                let hash = session_hash(body);
                if hash != head.hash {
                    self.key.set_body(body);
                }
                KeySetHead { tried: now, due: now + self.remote.refresh, is_under_way: false, hash }
            }
            Err(why) => {
                log::warn!(
                    "berth: provider {}: the keys were not fetched: {why}; the known ones stay",
                    self.name
                );
                KeySetHead { tried: now, due: now + self.retry(), is_under_way: false, ..head }
            }
        };
        self.key.set_head(head, token);
    }

    fn retry(&self) -> Millis {
        RETRY.min(self.remote.refresh)
    }

    pub(crate) fn flush(&self) {
        self.metrics.add(self.fetches.take());
    }

    /// The published keys, if they are not those in use.
    fn news(&mut self) -> Option<Keys> {
        let (head, _) = self.key.head();
        if head.hash == self.hash {
            return None;
        }
        let body = self.key.body()?;
        let keys = Keys::from_jwks(&body).ok()?;
        self.hash = session_hash(&body);
        Some(keys)
    }

    /// A token names a key that is not known. True if newer keys are on their way, or may be asked for.
    pub(crate) fn want(&mut self, now: Millis) -> bool {
        let (head, _) = self.key.head();
        self.is_wanted |= may_try(head, now);
        self.is_wanted || !self.is_current(head)
    }

    pub(crate) fn has_settled(&self) -> bool {
        let (head, _) = self.key.head();
        !self.is_wanted && self.is_current(head)
    }

    fn is_current(&self, head: KeySetHead) -> bool {
        !head.is_under_way && head.hash == self.hash
    }

    pub(crate) fn patience(&self) -> Millis {
        self.remote.timeout + LOST
    }
}

fn may_try(head: KeySetHead, now: Millis) -> bool {
    !head.is_under_way && (now < head.tried || now.since(head.tried) >= REFETCH)
}
