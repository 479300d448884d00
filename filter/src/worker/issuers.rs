//! The keys of issuers: fetched by the VM that finds them due and writes first, published for all of them.

use std::cell::RefCell;

use berth_core::call::CallFailure;
use berth_core::config::JwtProvider;
use berth_core::event::jwks_stat;
use berth_core::issuer::Issuer;
use berth_core::time::Millis;
use berth_core::token::Keys;

use super::Worker;
use crate::host;
use crate::metrics::Metrics;
use crate::shared::KeySetKey;

/// One issuer with the record that the VMs share.
pub(super) struct IssuerLink {
    issuer: RefCell<Issuer>,
    key: KeySetKey,
    metrics: Metrics<2>,
}

impl Worker {
    /// Fetches keys that are due, and takes over those that another VM has fetched.
    pub(crate) fn tick_issuers(&self, now: Millis) {
        for (provider, issuer) in self.issuers.iter().enumerate() {
            if let Some(keys) = issuer.as_ref().and_then(|issuer| issuer.tick(now)) {
                self.proxy.borrow().tokens.set_keys(provider, keys);
            }
        }
    }

    /// The provider whose keys this call was for; it came to its end.
    pub(crate) fn issuer_of_call(&self, token: u32) -> Option<usize> {
        let is_its = |link: &IssuerLink| link.issuer.borrow_mut().take_call(token);
        self.issuers.iter().position(|link| link.as_ref().is_some_and(is_its))
    }

    /// What came of the call for a provider's keys.
    pub(crate) fn handle_keys(&self, provider: usize, body: Result<&[u8], &CallFailure>, now: Millis) {
        if let Some(issuer) = self.issuer(provider) {
            issuer.end(body, now);
            self.tick_issuers(now);
        }
    }

    pub(super) fn issuer(&self, provider: usize) -> Option<&IssuerLink> {
        self.issuers.get(provider)?.as_ref()
    }
}

impl IssuerLink {
    pub(super) fn of(provider: &JwtProvider) -> Option<Self> {
        let issuer = Issuer::of(provider)?;
        let remote = &issuer.remote;
        let names = [false, true].map(|is_good| jwks_stat(&provider.name, is_good));
        Some(Self {
            key: KeySetKey::new(&remote.cluster, &remote.host, &remote.path),
            metrics: Metrics::define(names.into_iter()),
            issuer: RefCell::new(issuer),
        })
    }

    /// Returns keys that are new to this VM.
    fn tick(&self, now: Millis) -> Option<Keys> {
        let (head, token) = self.key.head();
        let claimed = self.issuer.borrow_mut().claim(head, now);
        if claimed.is_some_and(|head| self.key.set_head(head, token)) {
            self.fetch(now);
        }
        let (head, _) = self.key.head();
        let mut issuer = self.issuer.borrow_mut();
        if !issuer.has_news(head) {
            return None;
        }
        issuer.take_keys(head, &self.key.body()?)
    }

    fn fetch(&self, now: Millis) {
        let made = {
            let remote = &self.issuer.borrow().remote;
            host::get(&remote.cluster, &remote.host, &remote.path, remote.timeout)
        };
        match made {
            Ok(call) => self.issuer.borrow_mut().call_started(call),
            Err(failure) => self.end(Err(&failure), now),
        }
    }

    fn end(&self, body: Result<&[u8], &CallFailure>, now: Millis) {
        let (head, token) = self.key.head();
        let mut issuer = self.issuer.borrow_mut();
        let fetched = issuer.fetched(body, head, now);
        if let Some(why) = fetched.failure {
            let name = &issuer.provider;
            log::warn!("berth: provider {name}: the keys were not fetched: {why}; the known ones stay");
        }
        if let Some(body) = fetched.body {
            self.key.set_body(body);
        }
        self.key.set_head(fetched.head, token);
    }

    pub(super) fn want(&self, now: Millis) -> bool {
        self.issuer.borrow_mut().want(self.key.head().0, now)
    }

    pub(super) fn has_settled(&self) -> bool {
        self.issuer.borrow().has_settled(self.key.head().0)
    }

    pub(super) fn patience(&self) -> Millis {
        self.issuer.borrow().patience()
    }

    pub(super) fn flush(&self) {
        self.metrics.add(self.issuer.borrow().take_counts());
    }
}
