//! Resolving, in up to three rounds that together take no longer than one call may: read the pins of former keys, run the
//! one script for each session, let former keys' pins learn higher session versions.
//!
//! A session and its former key have different slots, so no script sees both. Each round may be repeated, and between them
//! others may act: the script checks the node it is given like any candidate, and a session version only grows. Without
//! former keys, which is nearly always, there is one round.

use std::fmt::Write as _;
use std::time::Instant;

use berth_core::wire::{KnownPin, Pin, ResolveRequest, SessionAsk, SessionKey};
use redis::Value;

use super::call::{Answers, Group, Step};
use super::layout::Shard;
use super::reading::{self, Stored, misread, text};
use super::{Redis, by_shard, scripts};
use crate::store::StoreError;
use crate::store::claims::Former;

impl Redis {
    pub(super) async fn resolve_sessions(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError> {
        let since = Instant::now();
        let formers = self.formers(request, since).await?;
        let asks = request.sessions.iter().zip(&formers);
        let shards = by_shard(&request.pool, asks.enumerate().map(|(at, ask)| (ask.0.key, (at, ask))));
        let groups = shards.iter().map(|(shard, asks)| Group {
            shard: shard.clone(),
            steps: asks
                .iter()
                .map(|(_, (ask, former))| self.resolve_step(shard, request, ask, former.as_ref()))
                .collect(),
        });
        let answers = self.link.run_since(since, groups.collect(), true).await?;

        let mut pins = vec![None; request.sessions.len()];
        for ((_, asks), Answers { values, durable }) in shards.iter().zip(&answers) {
            for ((at, (ask, _)), value) in asks.iter().zip(values) {
                if let Some(place) = pins.get_mut(*at) {
                    let pin = reading::pin(ask.key, self.keeping.ttl, text(value)?)?;
                    *place = Some(Pin { durable: *durable, ..pin });
                }
            }
        }
        let pins = pins.into_iter().collect::<Option<Vec<_>>>();
        let pins = pins.ok_or_else(|| misread("the number of pins"))?;
        self.raise(request, &formers, &pins, since).await;
        Ok(pins)
    }

    /// For each session the pin of its former key, if it has one.
    async fn formers(
        &self,
        request: &ResolveRequest,
        since: Instant,
    ) -> Result<Vec<Option<Former>>, StoreError> {
        let mut formers = vec![None; request.sessions.len()];
        let asks = request.sessions.iter().enumerate();
        let keys = asks.filter_map(|(at, ask)| ask.alias_of.map(|key| (key, (at, key))));
        let shards = by_shard(&request.pool, keys);
        if shards.is_empty() {
            return Ok(formers);
        }
        let groups = shards.iter().map(|(shard, keys)| Group {
            shard: shard.clone(),
            steps: keys.iter().map(|(_, key)| Step::command("GET").arg(shard.pin(*key))).collect(),
        });
        let answers = self.link.run_since(since, groups.collect(), false).await?;
        for ((_, keys), answers) in shards.iter().zip(&answers) {
            for ((at, key), value) in keys.iter().zip(&answers.values) {
                if let (Some(place), false) = (formers.get_mut(*at), *value == Value::Nil) {
                    let pin = Stored::read(text(value)?)?;
                    *place = Some(Former {
                        key: *key,
                        node: pin.node,
                        version: pin.version,
                        session_version: pin.claims.session_version,
                        boot_id: pin.boot_id,
                    });
                }
            }
        }
        Ok(formers)
    }

    fn resolve_step(
        &self,
        shard: &Shard,
        request: &ResolveRequest,
        ask: &SessionAsk,
        former: Option<&Former>,
    ) -> Step {
        let keys = [shard.pin(ask.key), shard.ended(ask.key), shard.nodes(), shard.changes(), shard.clock()];
        let mut step = Step::script(&scripts::RESOLVE, &keys)
            .arg(self.keeping.ttl.0.to_string())
            .arg(match (request.panic, ask.strict) {
                (true, _) => "panic",
                (false, true) => "strict",
                (false, false) => "",
            })
            .arg(self.keeping.changes.to_string())
            .arg(ask.key.to_string())
            .arg(request.correlation_id.as_deref().unwrap_or_default())
            .arg(said(ask))
            .arg(former.map(former_text).unwrap_or_default())
            .arg(known_text(ask.known.as_ref()))
            .arg(if ask.renew { "1" } else { "" })
            .arg(ask.candidates.len().to_string());
        let mut text = String::new();
        for node in ask.candidates.iter().chain(&ask.unusable) {
            text.clear();
            let _ = write!(text, "{node}");
            step = step.arg(text.as_str());
        }
        step
    }

    /// Lets the pins of former keys learn what the sessions' own know. They have their pins: a failure here costs proxies that
    /// remember the former key a while, until they ask for it or the session is resolved again.
    async fn raise(
        &self,
        request: &ResolveRequest,
        formers: &[Option<Former>],
        pins: &[Pin],
        since: Instant,
    ) {
        let answered = request.sessions.iter().zip(pins);
        let raised = formers.iter().zip(answered).filter_map(|(former, (ask, pin))| {
            let (former, to) = (former.as_ref()?, pin.session_version?);
            // A request without a session version does not say that others are old.
            ask.session_version?;
            (former.session_version < to).then_some((former.key, (former.key, to)))
        });
        let shards = by_shard(&request.pool, raised);
        if shards.is_empty() {
            return;
        }
        let step = |shard: &Shard, key: SessionKey, to: u32| {
            Step::script(&scripts::RAISE, &[shard.pin(key), shard.changes()])
                .arg(to.to_string())
                .arg(self.keeping.changes.to_string())
                .arg(key.to_string())
                .arg(request.correlation_id.as_deref().unwrap_or_default())
        };
        let groups = shards.iter().map(|(shard, keys)| Group {
            shard: shard.clone(),
            steps: keys.iter().map(|(key, to)| step(shard, *key, *to)).collect(),
        });
        if let Err(error) = self.link.run_since(since, groups.collect(), false).await {
            tracing::warn!(pool = request.pool.as_str(), %error, "former keys did not learn a session version");
        }
    }
}

/// `idle time|end|creation|session version|life of a claim`, each of which may be empty.
fn said(ask: &SessionAsk) -> String {
    let version = ask.session_version.filter(|version| *version > 0).map(u64::from);
    let parts = [ask.ttl_ms, ask.ends_ms, ask.created_ms, version, ask.claim_ttl_ms];
    parts.map(|part| part.map(|part| part.to_string()).unwrap_or_default()).join("|")
}

/// `key|version|session version|boot id|node`
fn former_text(former: &Former) -> String {
    let Former { key, node, version, session_version, boot_id } = former;
    format!("{key}|{version}|{session_version}|{}|{node}", boot_id.as_deref().unwrap_or_default())
}

/// `version|node`, or nothing.
pub(super) fn known_text(known: Option<&KnownPin>) -> String {
    known.map(|KnownPin { version, node }| format!("{version}|{node}")).unwrap_or_default()
}
