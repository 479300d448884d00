//! What Redis answers, as wire types. Whatever does not fit is an error, never a panic: the keys may be anybody's.

use std::collections::BTreeMap;
use std::str::FromStr;

use berth_core::time::Millis;
use berth_core::wire::{
    ChangeKind, Event, NodeId, NodeRecord, Outcome, Pin, PoolName, Reason, SessionKey, SessionReply,
    TouchReply,
};
use redis::Value;

use super::call::server_error;
use super::format;
use super::layout::{Position, Shard};
use super::recording::read as read_record;
use crate::store::StoreError;
use crate::store::claims::{Claims, FORMER_UNKNOWN, other_than};

pub(super) fn misread(what: &str) -> StoreError {
    StoreError::Refused(format!("{what} cannot be read: is another program using the keys berth:*?"))
}

/// The error that it is, or what it should have been.
fn refused(value: &Value, what: &str) -> StoreError {
    server_error(value).unwrap_or_else(|| misread(what))
}

pub(super) fn text(value: &Value) -> Result<&str, StoreError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| misread("a text")),
        Value::SimpleString(text) => Ok(text),
        _ => Err(refused(value, "a text")),
    }
}

pub(super) fn integer(value: &Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(refused(value, "a number")),
    }
}

pub(super) fn list(value: &Value) -> Result<&[Value], StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(refused(value, "a list")),
    }
}

/// Seconds and microseconds, as milliseconds.
pub(super) fn time(value: &Value) -> Result<u64, StoreError> {
    let [seconds, micros] = list(value)? else { return Err(misread("the time")) };
    match (text(seconds)?.parse::<u64>(), text(micros)?.parse::<u64>()) {
        (Ok(seconds), Ok(micros)) => Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000)),
        _ => Err(misread("the time")),
    }
}

/// What `resolve.lua` returns: `outcome|version|restore|from|life|session version|owned for|node`.
pub(super) fn pin(key: SessionKey, ttl: Millis, text: &str) -> Result<Pin, StoreError> {
    let read = || {
        let mut parts = text.split('|');
        let outcome = match parts.next()? {
            "f" => Outcome::Found,
            "c" => Outcome::Claimed,
            "r" => Outcome::Rehomed,
            _ => return None,
        };
        let version = parts.next()?.parse().ok()?;
        let restore = parts.next()? == "1";
        let from = optional(parts.next()?)?;
        let life = Millis(parts.next()?.parse().ok()?);
        let session_version = optional(parts.next()?)?;
        let owned_ms = Some(parts.next()?.parse().ok()?);
        let node = parts.next()?.parse().ok()?;
        let ttl_ms = other_than(ttl, life);
        Some(Pin {
            key,
            node,
            version,
            outcome,
            from,
            restore,
            durable: None,
            ttl_ms,
            session_version,
            owned_ms,
        })
    };
    read().ok_or_else(|| misread("a pin"))
}

/// What may be empty; `None` if it cannot be read.
fn optional<T: FromStr>(text: &str) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// A pin as it is stored; `resolve.lua` has its form.
pub(super) struct Stored {
    pub(super) version: u64,
    claimed: u64,
    owned: u64,
    pub(super) boot_id: Option<String>,
    pub(super) node: NodeId,
    pub(super) claims: Claims,
}

impl Stored {
    /// The text of this key.
    pub(super) fn read(key: &str, text: &str) -> Result<Self, StoreError> {
        let parts: Vec<&str> = format::plain(key, text)?.split('|').collect();
        let read = || {
            let (pin, claims) = parts.split_at_checked(5)?;
            let &[version, claimed, owned, boot_id, node] = pin else { return None };
            Some(Self {
                version: version.parse().ok()?,
                claimed: claimed.parse().ok()?,
                owned: owned.parse().ok()?,
                boot_id: optional(boot_id)?,
                node: node.parse().ok()?,
                claims: read_claims(claims)?,
            })
        };
        read().ok_or_else(|| misread("a pin"))
    }

    pub(super) fn session(
        &self,
        pool: &PoolName,
        key: SessionKey,
        ttl: Millis,
        left: i64,
        now_ms: u64,
    ) -> SessionReply {
        SessionReply {
            pool: pool.clone(),
            key,
            node: self.node.clone(),
            version: self.version,
            // Of one that was lost and written again it is not known when it was claimed: at the latest when its node got it.
            age_ms: now_ms.saturating_sub(if self.claimed <= FORMER_UNKNOWN.0 {
                self.owned
            } else {
                self.claimed
            }),
            owned_ms: now_ms.saturating_sub(self.owned),
            ttl_ms: u64::try_from(left).unwrap_or(0),
            idle_ttl_ms: Some(self.claims.ttl.unwrap_or(ttl).0),
            ends_ms: self.claims.ends.map(|ends| ends.0),
            created_ms: self.claims.created.map(|created| created.0),
            session_version: Some(self.claims.session_version).filter(|version| *version > 0),
            alias_of: self.claims.alias_of,
            owner: NodeRecord::unknown(self.node.clone()),
            events: Vec::new(),
        }
    }
}

/// What `GET` says of a session's pin, `PTTL` of its life, `TIME`, and `XREVRANGE` of the changes of its shard. `None` without a
/// pin.
pub(super) fn session(
    pool: &PoolName,
    key: SessionKey,
    ttl: Millis,
    values: &[Value],
) -> Result<Option<SessionReply>, StoreError> {
    let [pin, left, time_now, changes] = values else { return Err(misread("the parts of a session")) };
    if *pin == Value::Nil {
        return Ok(None);
    }
    let shard = Shard::of(pool, key);
    let pin = Stored::read(&shard.pin(key), text(pin)?)?;
    let mut session = pin.session(pool, key, ttl, integer(left)?, time(time_now)?);
    session.events = events(&shard, changes)?.events;
    session.events.retain(|event| event.key == Some(key));
    session.events.reverse();
    Ok(Some(session))
}

/// What `touch.lua` returns of these sessions, added to a reply. Returns what is wrong with a pin that was left as it is.
pub(super) fn touched(
    shard: &Shard,
    keys: &[SessionKey],
    value: &Value,
    reply: &mut TouchReply,
) -> Result<Option<StoreError>, StoreError> {
    let [lives, others, written] = list(value)? else { return Err(misread("touched pins")) };
    let lives = list(lives)?;
    if lives.len() != keys.len() {
        return Err(misread("touched pins"));
    }
    let mut failure = None;
    for (key, life) in keys.iter().zip(lives) {
        match integer(life)? {
            -1 => reply.missing.push(*key),
            life if life < 0 => {
                failure = Some(format::newer(&life.unsigned_abs().to_string(), &shard.pin(*key)));
                reply.unanswered.push(*key);
            }
            life => {
                reply.touched += 1;
                let life = other_than(Millis(reply.ttl_ms), Millis(life.unsigned_abs()));
                reply.ttls_ms.extend(life.map(|life| (*key, life)));
            }
        }
    }
    for (places, named) in [(others, &mut reply.changed), (written, &mut reply.written)] {
        for place in list(places)? {
            let place = usize::try_from(integer(place)?).ok();
            named.extend(place.and_then(|place| keys.get(place)));
        }
    }
    Ok(failure)
}

/// The last parts of a stored pin: either all of them are present, or no part is.
fn read_claims(parts: &[&str]) -> Option<Claims> {
    match *parts {
        [] => Some(Claims::default()),
        [ttl, ends, created, session_version, alias_of] => Some(Claims {
            ttl: optional(ttl)?.map(Millis),
            ends: optional(ends)?.map(Millis),
            created: optional(created)?.map(Millis),
            session_version: optional(session_version)?.unwrap_or(0),
            alias_of: optional(alias_of)?,
        }),
        _ => None,
    }
}

/// What `changes.lua` returns.
pub(super) struct Part {
    /// Something is missing between the position and the events.
    pub(super) gap: bool,
    /// Of the last entry here.
    pub(super) last: Option<Position>,
    pub(super) read: Entries,
}

pub(super) fn changes(shard: &Shard, value: &Value) -> Result<Part, StoreError> {
    let [gap, entries] = list(value)? else { return Err(misread("changes")) };
    Ok(Part {
        gap: integer(gap)? == 1,
        last: list(entries)?.last().map(entry_position).transpose()?,
        read: events(shard, entries)?,
    })
}

/// The position of the only entry, if there is one.
pub(super) fn newest(entries: &Value) -> Result<Option<Position>, StoreError> {
    list(entries)?.first().map(entry_position).transpose()
}

/// Entries of a log.
pub(super) struct Entries {
    pub(super) events: Vec<Event>,
    /// Where entries are that cannot be read: another program wrote them, or a later version.
    pub(super) unreadable: Vec<Position>,
}

/// Without the log's beginning, which is not news. An entry that cannot be read is passed over: those behind it are news.
pub(super) fn events(shard: &Shard, entries: &Value) -> Result<Entries, StoreError> {
    let mut read = Entries { events: Vec::new(), unreadable: Vec::new() };
    for entry in list(entries)? {
        match event(shard, entry) {
            Ok(event) => read.events.extend(event),
            Err(_) => read.unreadable.push(entry_position(entry)?),
        }
    }
    Ok(read)
}

fn position(value: &Value) -> Result<Position, StoreError> {
    Position::parse(text(value)?).ok_or_else(|| misread("a position"))
}

fn entry_position(entry: &Value) -> Result<Position, StoreError> {
    position(list(entry)?.first().ok_or_else(|| misread("a change"))?)
}

fn event(shard: &Shard, entry: &Value) -> Result<Option<Event>, StoreError> {
    let [_, pairs] = list(entry)? else { return Err(misread("a change")) };
    let at = entry_position(entry)?;
    let mut fields = BTreeMap::new();
    for pair in list(pairs)?.chunks_exact(2) {
        if let [name, value] = pair {
            fields.insert(text(name)?, text(value)?);
        }
    }
    if fields.get("kind") == Some(&"begin") {
        return Ok(None);
    }
    // The words are those of the wire, so its own reader knows them; one that it does not know is of a newer service.
    let word = |name| serde_json::Value::from(fields.get(name).copied().unwrap_or_default());
    Ok(Some(Event {
        cursor: shard.event_cursor(at),
        kind: serde_json::from_value(word("kind")).unwrap_or(ChangeKind::Unknown),
        key: fields.get("key").and_then(|text| text.parse().ok()),
        node: fields.get("node").and_then(|text| text.parse().ok()),
        from: fields.get("from").and_then(|text| text.parse().ok()),
        version: fields.get("version").and_then(|text| text.parse().ok()),
        reason: serde_json::from_value(word("reason")).unwrap_or(Reason::Unknown),
        time_ms: at.time_ms,
        correlation_id: fields.get("correlation_id").filter(|id| !id.is_empty()).map(|id| (*id).to_owned()),
        session_version: fields.get("session_version").and_then(|text| text.parse().ok()),
        record: fields.get("record").and_then(|text| read_record(&shard.changes(), text).ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_services_that_knew_no_claims_are_read() {
        let plain = Stored::read("k", "3|1767225600000|1767225600001|b7|10.0.0.1:80").unwrap();
        assert_eq!((plain.version, plain.boot_id.as_deref()), (3, Some("b7")));
        assert_eq!((plain.node, plain.claims), ("10.0.0.1:80".parse().unwrap(), Claims::default()));

        let key = SessionKey::new("nodes", b"alice");
        let whole = format!("3|1|2||10.0.0.1:80|900000|1767229200000|1767225600000|4|{key}");
        let expected = Claims {
            ttl: Some(Millis(900_000)),
            ends: Some(Millis(1_767_229_200_000)),
            created: Some(Millis(1_767_225_600_000)),
            session_version: 4,
            alias_of: Some(key),
        };
        assert_eq!(Stored::read("k", &whole).unwrap().claims, expected);
        assert_eq!(Stored::read("k", "3|1|2||10.0.0.1:80|||||").unwrap().claims, Claims::default());
    }

    #[test]
    fn a_time_at_its_limit_is_read() {
        let time_of = |parts: [&str; 2]| {
            time(&Value::Array(parts.map(|part| Value::BulkString(part.as_bytes().to_vec())).to_vec()))
        };
        assert_eq!(time_of(["1767225600", "123456"]), Ok(1_767_225_600_123));
        let most = u64::MAX.to_string();
        assert_eq!(time_of([&most, &most]), Ok(u64::MAX));
    }

    #[test]
    fn an_answer_to_a_touch_speaks_of_each_session() {
        let (pool, key) = ("nodes".parse().unwrap(), SessionKey::new("nodes", b"alice"));
        let touched = |lives: &[i64]| {
            let lives = lives.iter().map(|life| Value::Int(*life)).collect();
            let mut reply = TouchReply {
                touched: 0,
                missing: Vec::new(),
                changed: Vec::new(),
                written: Vec::new(),
                ttl_ms: 5,
                ttls_ms: BTreeMap::new(),
                store: None,
                unanswered: Vec::new(),
            };
            let none = || Value::Array(Vec::new());
            let answer = Value::Array(vec![Value::Array(lives), none(), none()]);
            super::touched(&Shard::of(&pool, key), &[key, key], &answer, &mut reply).map(|_| reply.touched)
        };

        assert_eq!(touched(&[5, 6]), Ok(2));
        for lives in [&[][..], &[5], &[5, 6, 7]] {
            assert_eq!(touched(lives), Err(misread("touched pins")), "{lives:?}");
        }
    }

    #[test]
    fn what_is_no_pin_is_an_error() {
        for text in [
            "",
            "3",
            "3|1|2||",
            "3|1|2||a b",
            "3|1|2||10.0.0.1:80|",
            "x|1|2||10.0.0.1:80",
            "3|1|2||10.0.0.1:80|||-1||",
        ] {
            assert!(Stored::read("k", text).is_err(), "{text}");
        }
    }
}
