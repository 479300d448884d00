//! How many pins each node has, of a part of a pool's pins: those with the smallest keys after a position.
//!
//! The map has no order that lasts, so the part is chosen by the keys themselves, which takes one look at each: some tens of
//! milliseconds for a million.

use berth_core::time::Millis;
use berth_core::wire::{CountReply, Cursor, SessionKey};

use super::Pool;

pub(super) fn count(pool: &Pool, after: Option<&Cursor>, limit: usize, now: Millis) -> CountReply {
    let after: Option<SessionKey> = after.and_then(|cursor| cursor.as_str().parse().ok());
    let is_later = |key: &&SessionKey| after.is_none_or(|after| **key > after);
    let mut keys: Vec<SessionKey> = pool.pins.keys().filter(is_later).copied().collect();
    let complete = keys.len() <= limit;
    if !complete {
        keys.select_nth_unstable(limit);
        keys.truncate(limit);
    }
    let last = keys.iter().max().filter(|_| !complete);
    let mut reply = CountReply {
        complete,
        next: last.and_then(|key| key.to_string().parse().ok()),
        ..CountReply::default()
    };
    for key in keys {
        if let Some(pin) = pool.live(key, now) {
            reply.pins += 1;
            *reply.nodes.entry(pin.node.clone()).or_default() += 1;
        }
    }
    reply
}
