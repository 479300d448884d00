//! The words of transcripts.

use berth_core::changelog::{Change, digest};
use berth_core::membership::Observation;
use berth_core::time::Millis;
use berth_core::wire::{Outcome, Pin, SessionKey};

use super::POOL;

/// `alice v4 at b`, `alice ended`, `alice superseded by v3`, `alice superseded`.
pub(crate) fn change(rest: &str) -> Result<(SessionKey, Change), String> {
    let (name, what) = rest.split_once(' ').ok_or("say of which session what changed")?;
    let key = SessionKey::new(POOL, name.as_bytes());
    let change = match what.strip_prefix("superseded by ") {
        Some(version) => Change::Superseded(Some(number_after_v(version)?)),
        None if what == "superseded" => Change::Superseded(None),
        None if what == "ended" => Change::Ended,
        None => {
            let (version, node) = what.split_once(" at ").ok_or("say at which node it is now")?;
            Change::Pinned { version: number_after_v(version)?, node: digest(node) }
        }
    };
    Ok((key, change))
}

/// `alice found b v2 restore from=a owned=1s ttl=60s token=3`, without the name if the call asked for one session only.
pub(crate) fn pin(text: &str, only: Option<SessionKey>) -> Result<Pin, String> {
    let outcome = |word: &str| match word {
        "found" => Some(Outcome::Found),
        "claimed" => Some(Outcome::Claimed),
        "rehomed" => Some(Outcome::Rehomed),
        _ => None,
    };
    let mut words = text.split_whitespace().peekable();
    let first = *words.peek().ok_or("say what the answer is")?;
    let key = if outcome(first).is_some() {
        only.ok_or("say which session")?
    } else {
        words.next();
        SessionKey::new(POOL, first.as_bytes())
    };
    let outcome = words.next().and_then(outcome).ok_or("an outcome is found, claimed or rehomed")?;
    let node = words.next().ok_or("say the node")?;
    let mut pin = Pin {
        key,
        node: node.parse().map_err(|error| format!("{node}: {error}"))?,
        version: number_after_v(words.next().unwrap_or_default())?,
        outcome,
        from: None,
        restore: false,
        durable: None,
        ttl_ms: None,
        session_version: None,
        owned_ms: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("restore", _) => pin.restore = true,
            ("from", node) => pin.from = Some(node.parse().map_err(|error| format!("{node}: {error}"))?),
            ("owned", time) => pin.owned_ms = Some(duration(time)?.0),
            ("ttl", time) => pin.ttl_ms = Some(duration(time)?.0),
            ("token", version) => pin.session_version = Some(number_after_v(version)?),
            _ => return Err(format!("{word:?} says nothing of a pin")),
        }
    }
    Ok(pin)
}

/// `a`, `b(unhealthy)`, `b@10.0.0.2:80` with its name first.
pub(crate) fn host(word: &str) -> Result<Observation, String> {
    let (address, fact) = match word.split_once('(') {
        Some((address, fact)) => (address, fact.strip_suffix(')').ok_or("close the (")?),
        None => (word, ""),
    };
    let (name, address) = match address.split_once('@') {
        Some((name, address)) => (Some(name.to_owned()), address),
        None => (None, address),
    };
    let mut host = Observation { address: address.to_owned(), name, weight: 1, ..Observation::default() };
    match fact {
        "" => {}
        "unhealthy" => host.flags.unhealthy = true,
        "pending" => host.flags.pending = true,
        "draining" => host.flags.draining = true,
        _ => return Err(format!("{fact:?} is no fact of a host")),
    }
    Ok(host)
}

pub(crate) fn number_after_v<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    let number = word.strip_prefix('v').and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{word:?} is no version such as v3"))
}

pub(crate) fn duration(text: &str) -> Result<Millis, String> {
    Millis::parse(text).ok_or_else(|| format!("{text:?} is no time such as 50ms or 30s"))
}
