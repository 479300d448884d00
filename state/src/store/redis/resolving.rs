//! Resolving, in up to three rounds that together take no longer than one call may: read the pins of former keys, run the
//! one script for each session, let former keys' pins learn higher session versions.
//!
//! A session and its former key have different slots, so no script sees both. Each round may be repeated, and between them
//! others may act: the script checks the node it is given like any candidate, and a session version only grows. Without
//! former keys, which is nearly always, there is one round.
//!
//! A session whose shard does not answer has no pin in the reply; those of other shards have theirs.

use std::fmt::Write as _;

use berth_core::wire::{KnownPin, Outcome, Pin, ResolveRequest, SessionAsk, SessionKey};
use redis::Value;

use super::call::{Answers, Group, Step, all_read};
use super::layout::Shard;
use super::reading::{self, Stored, text};
use super::{Redis, by_shard, scripts};
use crate::store::StoreError;
use crate::store::claims::Former;

/// What is known of a session's former key: its pin, if it has one, or why that is not known.
type Known = Result<Option<Former>, StoreError>;

impl Redis {
    pub(super) async fn resolve_sessions(&self, request: &ResolveRequest) -> Result<Vec<Pin>, StoreError> {
        if self.prober.asked(&request.pool) {
            self.mending.note(&request.pool);
        }
        let formers = self.formers(request).await;
        let mut failure = None;
        let asks = request.sessions.iter().zip(&formers).enumerate();
        // A session whose former key's pin is not known would begin again.
        let asks = asks.filter_map(|(at, (ask, former))| match former {
            Ok(former) => Some((ask.key, (at, ask, former.as_ref()))),
            Err(error) => {
                failure.get_or_insert_with(|| error.clone());
                None
            }
        });
        let shards = by_shard(&request.pool, asks);
        let groups = shards.iter().map(|(shard, asks)| Group {
            shard: shard.clone(),
            steps: asks
                .iter()
                .map(|(_, ask, former)| self.resolve_step(shard, request, ask, *former))
                .collect(),
        });
        let outcomes = self.link.each_durably(groups.collect()).await;

        let mut pins = vec![None; request.sessions.len()];
        for ((shard, asks), outcome) in shards.iter().zip(outcomes) {
            let answers = match outcome {
                Ok(answers) => answers,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            for ((at, ask, _), value) in asks.iter().zip(&answers.values) {
                let pin = text(value).and_then(|text| reading::pin(ask.key, self.keeping.ttl, text));
                let pin = match pin {
                    Ok(pin) => Pin { durable: answers.durable(), ..pin },
                    Err(error) => {
                        failure.get_or_insert(error);
                        continue;
                    }
                };
                if pin.outcome != Outcome::Found {
                    self.prober.wrote(&request.pool, shard.index());
                }
                if let Some(place) = pins.get_mut(*at) {
                    *place = Some(pin);
                }
            }
        }
        self.raise(request, &formers, &mut pins).await;
        let pins: Vec<Pin> = pins.into_iter().flatten().collect();
        match failure {
            Some(error) if pins.is_empty() => Err(error),
            _ => Ok(pins),
        }
    }

    /// For each session the pin of its former key, if it has one.
    async fn formers(&self, request: &ResolveRequest) -> Vec<Known> {
        let mut formers = vec![Ok(None); request.sessions.len()];
        let asks = request.sessions.iter().enumerate();
        let keys = asks.filter_map(|(at, ask)| ask.alias_of.map(|key| (key, (at, key))));
        let shards = by_shard(&request.pool, keys);
        if shards.is_empty() {
            return formers;
        }
        let groups = shards.iter().map(|(shard, keys)| Group {
            shard: shard.clone(),
            steps: keys.iter().map(|(_, key)| Step::command("GET").arg(shard.pin(*key))).collect(),
        });
        let outcomes = self.link.each(groups.collect()).await;
        for ((shard, keys), outcome) in shards.iter().zip(outcomes) {
            for (place, (at, key)) in keys.iter().enumerate() {
                let former = match &outcome {
                    Ok(answers) => {
                        answers.values.get(place).map_or(Ok(None), |value| former(shard, *key, value))
                    }
                    Err(error) => Err(error.clone()),
                };
                if let Some(known) = formers.get_mut(*at) {
                    *known = former;
                }
            }
        }
        formers
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
            .arg(format!("{}{}", if ask.renew { "r" } else { "" }, if ask.find_only { "f" } else { "" }))
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
    /// remember the former key a while, until they ask for it or the session is resolved again. But a pin is only as durable as
    /// what its former key learned.
    async fn raise(&self, request: &ResolveRequest, formers: &[Known], pins: &mut [Option<Pin>]) {
        let answered = request.sessions.iter().zip(&*pins).enumerate();
        let raised = formers.iter().zip(answered).filter_map(|(former, (at, (ask, pin)))| {
            let (former, to) = (former.as_ref().ok()?.as_ref()?, pin.as_ref()?.session_version?);
            // A request without a session version does not say that others are old.
            ask.session_version?;
            (former.session_version < to).then_some((former.key, (at, former.key, to)))
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
            steps: keys.iter().map(|(_, key, to)| step(shard, *key, *to)).collect(),
        });
        let outcomes = self.link.each_durably(groups.collect()).await.into_iter();
        let outcomes: Vec<_> = outcomes.map(|outcome| outcome.and_then(all_read)).collect();
        for ((_, keys), outcome) in shards.iter().zip(&outcomes) {
            let durable = outcome.as_ref().map_or(Some(false), Answers::durable);
            for (at, ..) in keys {
                if let Some(Some(pin)) = pins.get_mut(*at) {
                    pin.durable = pin.durable.map(|held| held && durable == Some(true));
                }
            }
        }
        if let Some(error) = outcomes.into_iter().find_map(Result::err) {
            tracing::warn!(pool = request.pool.as_str(), %error, "former keys did not learn a session version");
        }
    }
}

fn former(shard: &Shard, key: SessionKey, pin: &Value) -> Known {
    if *pin == Value::Nil {
        return Ok(None);
    }
    let pin = Stored::read(&shard.pin(key), text(pin)?)?;
    Ok(Some(Former {
        key,
        node: pin.node,
        version: pin.version,
        session_version: pin.claims.session_version,
        boot_id: pin.boot_id,
    }))
}

/// `idle time|end|creation|session version|life of a claim|former key`, each of which may be empty.
fn said(ask: &SessionAsk) -> String {
    let version = ask.session_version.filter(|version| *version > 0).map(u64::from);
    let parts = [ask.ttl_ms, ask.ends_ms, ask.created_ms, version, ask.claim_ttl_ms];
    let former = ask.alias_of.map(|key| key.to_string()).unwrap_or_default();
    let parts = parts.map(|part| part.map(|part| part.to_string()).unwrap_or_default());
    format!("{}|{former}", parts.join("|"))
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
