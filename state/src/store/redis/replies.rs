//! The readers of what Redis answers, for those who have answers and no Redis: the fuzz targets of `state/fuzz`.
//!
//! Each is what the service reads such an answer with; the service itself does not come through here.

use berth_core::time::Millis;
use berth_core::wire::{Cursor, Event, NodeRecord, Pin, PoolName, SessionKey, SessionReply, TouchReply};
use redis::Value;

use super::layout::{Shard, cursor, positions};
use super::sentinel::{SentinelUrl, primary};
use super::{call, counting, reading, recording, slots};
use crate::store::StoreError;

/// To `resolve.lua`, of one session.
pub fn resolved(key: SessionKey, ttl: Millis, answer: &Value) -> Result<Pin, StoreError> {
    reading::text(answer).and_then(|text| reading::pin(key, ttl, text))
}

/// To `touch.lua`, added to a reply. True if a pin has a newer format.
pub fn touched(
    pool: &PoolName,
    keys: &[SessionKey],
    answer: &Value,
    reply: &mut TouchReply,
) -> Result<bool, StoreError> {
    let Some(first) = keys.first() else { return Ok(false) };
    reading::touched(&Shard::of(pool, *first), keys, answer, reply).map(|failure| failure.is_some())
}

/// To `GET`, `PTTL`, `TIME` and `XREVRANGE`.
pub fn session(
    pool: &PoolName,
    key: SessionKey,
    ttl: Millis,
    answers: &[Value],
) -> Result<Option<SessionReply>, StoreError> {
    reading::session(pool, key, ttl, answers)
}

/// What `changes.lua` says of one shard's log.
pub struct Changes {
    /// Changes were missed before these.
    pub gap: bool,
    /// Where the log goes on, if it has entries.
    pub last: Option<String>,
    /// Those that could be read.
    pub events: Vec<Event>,
    /// How many could not.
    pub unreadable: usize,
}

/// To `changes.lua`, of the pool's first shard.
pub fn changes(pool: &PoolName, answer: &Value) -> Result<Changes, StoreError> {
    let part = reading::changes(&Shard::home(pool), answer)?;
    Ok(Changes {
        gap: part.gap,
        last: part.last.map(|position| position.to_string()),
        events: part.read.events,
        unreadable: part.read.unreadable.len(),
    })
}

/// To `XREVRANGE` of one entry: its position.
pub fn newest(answer: &Value) -> Result<Option<String>, StoreError> {
    Ok(reading::newest(answer)?.map(|position| position.to_string()))
}

/// To `HGETALL` of a pool's records.
pub fn records(pool: &PoolName, answer: &Value) -> Result<Vec<NodeRecord>, StoreError> {
    let records = recording::read_all(pool, answer)?;
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// To `TIME`, in milliseconds.
pub fn time(answer: &Value) -> Result<u64, StoreError> {
    reading::time(answer)
}

/// A Cluster as one server sees it.
pub struct View {
    /// Ranges of slots, each with its primary.
    pub ranges: Vec<(u16, u16, (String, u16))>,
    /// The other servers.
    pub replicas: Vec<(String, u16)>,
    /// Grows with each change of roles.
    pub epoch: u64,
    /// The server is with the others.
    pub is_ok: bool,
}

/// To `CLUSTER SLOTS` and `CLUSTER INFO`, from a server of this name.
#[must_use]
pub fn view(slots: &Value, info: &Value, own_host: &str) -> Option<View> {
    let slots::View { ranges, replicas, epoch, is_ok } = slots::View::read(slots, info, own_host)?;
    Some(View { ranges, replicas: replicas.into_iter().collect(), epoch, is_ok })
}

/// Where `MOVED` or `ASK` with these details leads.
#[must_use]
pub fn redirection(details: &str, own_host: &str) -> Option<(String, u16)> {
    slots::redirection(details, own_host)
}

/// The slots that are on their way to or from another server, by `CLUSTER NODES`.
#[must_use]
pub fn moving(nodes: &str) -> Vec<u16> {
    counting::moving(nodes).collect()
}

/// To `SENTINEL get-master-addr-by-name`.
pub fn primary_of(answer: &Value) -> Result<Option<String>, StoreError> {
    primary(answer.clone()).map_err(|error| call::failure(&error))
}

/// What an answer says that is an error.
#[must_use]
pub fn refusal(answer: &Value) -> Option<StoreError> {
    call::server_error(answer)
}

/// The same position, written by us; `None` if it is not one of this store.
#[must_use]
pub fn rewritten(position: &Cursor) -> Option<Cursor> {
    positions(position).map(|positions| cursor(&positions))
}

/// Whether this is a URL of Sentinels.
#[must_use]
pub fn is_sentinel_url(url: &str) -> bool {
    SentinelUrl::parse(url).is_ok()
}
