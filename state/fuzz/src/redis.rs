//! What a Redis may answer: it is read as what it says, or refused.
//!
//! The input is one answer as a tree, a node a line, in the manner of RESP: `*2` is a list of the next two, `%1` a map of the
//! next pair, `:7` a number, `$text` and `+text` are texts, `!bytes` any bytes, `-CODE details` is an error, `_` is nothing. In texts `\n` is a
//! new line. Lists end where the input does. Every reader is given the answer, whatever it was made for.

use std::collections::BTreeSet;

use berth_core::time::Millis;
use berth_core::wire::{Cursor, PoolName, SessionKey, TouchReply};
use berth_state::store::StoreError;
use berth_state::store::redis::replies;
use redis::Value;

const TTL: Millis = Millis(1_800_000);
/// A list in a list is as deep as an answer gets; the client refuses 100.
const DEPTH: usize = 16;

/// Gives the answer to each reader.
pub fn check(input: &[u8]) {
    let answer = tree(&mut input.split(|byte| *byte == b'\n'), DEPTH);
    let pool: PoolName = "nodes".parse().unwrap();
    check_sessions(&pool, &answer);
    check_changes(&pool, &answer);
    check_cluster(&answer);
    if let Ok(records) = replies::records(&pool, &answer) {
        for record in records {
            let written = serde_json::to_string(&record).unwrap();
            assert_eq!(
                serde_json::from_str(&written).ok(),
                Some(record),
                "a record is read as it was written"
            );
        }
    }
    if let Ok(now) = replies::time(&answer) {
        assert!(parts(&answer).len() == 2 && now >= number(&parts(&answer)[0]), "{now}");
    }
    if let Some(error) = replies::refusal(&answer) {
        check_error(&error);
    }
    if let Value::BulkString(text) = &answer {
        check_text(&String::from_utf8_lossy(text));
    }
}

fn check_sessions(pool: &PoolName, answer: &Value) {
    let keys: Vec<SessionKey> = ["a", "b", "c"].map(|id| SessionKey::new("nodes", id.as_bytes())).to_vec();
    let key = keys[0];
    match replies::resolved(key, TTL, answer) {
        Ok(pin) => {
            assert_eq!(pin.key, key, "a pin is of the session that was asked for");
            assert_ne!(pin.ttl_ms, Some(TTL.0), "a life is said where it is another");
            let written = serde_json::to_string(&pin).unwrap();
            assert_eq!(serde_json::from_str(&written).ok(), Some(pin), "a pin fits into a reply");
        }
        Err(error) => check_error(&error),
    }
    for asked in 1..=keys.len() {
        let keys = &keys[..asked];
        let mut reply = nothing_touched();
        match replies::touched(pool, keys, answer, &mut reply) {
            Ok(is_newer) => {
                let said: BTreeSet<_> = reply.missing.iter().chain(&reply.unanswered).collect();
                assert_eq!(
                    reply.touched + said.len(),
                    asked,
                    "each session is touched, missing or unanswered"
                );
                assert_eq!(is_newer, !reply.unanswered.is_empty());
                assert!(reply.ttls_ms.len() <= reply.touched, "{reply:?}");
                assert!(reply.changed.iter().all(|key| keys.contains(key)), "{reply:?}");
            }
            Err(error) => check_error(&error),
        }
    }
    match replies::session(pool, key, TTL, parts(answer)) {
        Ok(Some(session)) => {
            assert!(session.key == key && session.session_version != Some(0), "{session:?}");
            assert!(
                session.events.iter().all(|event| event.key == Some(key)),
                "events of others: {session:?}"
            );
            let written = serde_json::to_string(&session).unwrap();
            assert_eq!(serde_json::from_str(&written).ok(), Some(session), "a session fits into a reply");
        }
        Ok(None) => assert_eq!(parts(answer)[0], Value::Nil, "a session without a pin"),
        Err(error) => check_error(&error),
    }
}

fn check_changes(pool: &PoolName, answer: &Value) {
    match replies::changes(pool, answer) {
        Ok(changes) => {
            let [gap, entries] = parts(answer) else { panic!("these are no changes") };
            let entries = parts(entries);
            assert_eq!(changes.gap, *gap == Value::Int(1));
            assert!(
                changes.events.len() + changes.unreadable <= entries.len(),
                "an entry is one event at most"
            );
            assert_eq!(changes.last.is_some(), !entries.is_empty(), "where there are entries it goes on");
            for event in changes.events {
                assert!(replies::rewritten(&event.cursor).as_ref() == Some(&event.cursor), "{event:?}");
                let written = serde_json::to_string(&event).unwrap();
                assert_eq!(serde_json::from_str(&written).ok(), Some(event), "an event fits into a reply");
            }
        }
        Err(error) => check_error(&error),
    }
    if let Ok(Some(newest)) = replies::newest(answer) {
        assert!(newest.contains('-'), "{newest}");
    }
}

fn check_cluster(answer: &Value) {
    let (slots, info) = match parts(answer) {
        [slots @ Value::Array(_), info] => (slots, info),
        _ => (answer, &Value::Nil),
    };
    if let Some(view) = replies::view(slots, info, "own") {
        let servers = view.ranges.iter().map(|(_, _, primary)| primary).chain(&view.replicas);
        for (host, port) in servers {
            assert!(*port > 0 && !host.is_empty() && host != "?", "{host}:{port} cannot be connected to");
        }
        assert!(view.ranges.len() <= parts(slots).len());
        assert!(view.is_ok || *info != Value::Nil, "a server that says nothing is believed");
    }
    if let Ok(Some(primary)) = replies::primary_of(answer) {
        let port = primary.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        assert!(port.is_some(), "{primary} has no port");
    }
}

fn check_text(text: &str) {
    if let Some((host, port)) = replies::redirection(text, "own") {
        assert!(port > 0 && !host.is_empty() && host != "?", "{host}:{port} cannot be connected to");
    }
    for slot in replies::moving(text) {
        assert!(text.contains(&slot.to_string()), "{slot}");
    }
    if let Some(position) = text.parse::<Cursor>().ok().as_ref().and_then(replies::rewritten) {
        assert_eq!(
            replies::rewritten(&position).as_ref(),
            Some(&position),
            "a position is written in one way"
        );
    }
    assert!(!replies::is_sentinel_url(text) || text.contains("+sentinel://"), "{text}");
}

/// What goes into a log or an answer says something, and in bounds.
fn check_error(error: &StoreError) {
    assert!(!error.to_string().is_empty());
}

fn nothing_touched() -> TouchReply {
    TouchReply {
        touched: 0,
        missing: Vec::new(),
        changed: Vec::new(),
        written: Vec::new(),
        ttl_ms: TTL.0,
        ttls_ms: Default::default(),
        store: None,
        unanswered: Vec::new(),
    }
}

fn parts(answer: &Value) -> &[Value] {
    match answer {
        Value::Array(parts) => parts,
        _ => &[],
    }
}

fn number(value: &Value) -> u64 {
    match value {
        Value::BulkString(text) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        }
        Value::SimpleString(text) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

/// The tree that the next lines are.
fn tree<'i>(lines: &mut impl Iterator<Item = &'i [u8]>, depth: usize) -> Value {
    let Some((kind, rest)) = lines.next().and_then(|line| line.split_first()) else { return Value::Nil };
    let text = || String::from_utf8_lossy(rest).replace("\\n", "\n");
    let count = text().parse().unwrap_or(0).min(64);
    let mut children = |count: usize| -> Vec<Value> {
        if depth == 0 { Vec::new() } else { (0..count).map(|_| tree(lines, depth - 1)).collect() }
    };
    match kind {
        b'*' => Value::Array(children(count)),
        b'%' => {
            let children = children(count * 2);
            Value::Map(children.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
        b':' => Value::Int(text().parse().unwrap_or(0)),
        b'$' => Value::BulkString(text().into_bytes()),
        b'+' => Value::SimpleString(text()),
        b'-' => {
            let error = format!("-{}\r\n", text().replace(['\r', '\n'], " "));
            redis::parse_redis_value(error.as_bytes()).unwrap_or(Value::Nil)
        }
        b'!' => Value::BulkString(rest.to_vec()),
        _ => Value::Nil,
    }
}
