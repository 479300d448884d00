//! The bodies of requests to the state service, as it reads them, and of its replies, as the filter and the command do.
//!
//! The input is a body.

use std::collections::BTreeSet;
use std::fmt::Debug;

use berth_core::wire::{
    ApiRequest, ChangesReply, CountReply, ErrorReply, Fault, MAX_CANDIDATES, MAX_COOLDOWN, MAX_SESSIONS,
    MAX_TOUCHED, MAX_UNUSABLE, MAX_WEIGHT, NodeChange, NodesReply, ResolveReply, ResolveRequest,
    SessionReply, TouchReply, TouchRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A list of faults is bounded, whatever the body is.
const MAX_FAULTS: usize = 65;
/// The longest value in a message has 64 characters, each of which may be written as an escape.
const MAX_MESSAGE: usize = 1024;

/// Reads the body as each request and each reply.
pub fn check(input: &[u8]) {
    match ResolveRequest::parse(input) {
        Ok(request) => check_resolve(&request),
        Err(faults) => check_faults(&faults),
    }
    match TouchRequest::parse(input) {
        Ok(request) => {
            let count = request.sessions().count();
            assert!((1..=MAX_TOUCHED).contains(&count), "{count} sessions");
            let body = ApiRequest::touch(&request).body;
            assert_eq!(TouchRequest::parse(&body).as_ref(), Ok(&request), "sent as it was read");
        }
        Err(faults) => check_faults(&faults),
    }
    match NodeChange::parse(input) {
        Ok(change) => {
            assert!(change.weight.is_none_or(|weight| (1..=MAX_WEIGHT).contains(&weight)), "{change:?}");
            assert!(change.cooldown_ms.is_none_or(|length| length <= MAX_COOLDOWN), "{change:?}");
            let node = "10.0.0.1:80".parse().unwrap();
            let body = ApiRequest::change_node("nodes", &node, &change).body;
            assert_eq!(NodeChange::parse(&body).as_ref(), Ok(&change), "sent as it was read");
        }
        Err(faults) => check_faults(&faults),
    }
    check_reply::<ResolveReply>(input);
    check_reply::<TouchReply>(input);
    check_reply::<ChangesReply>(input);
    check_reply::<NodesReply>(input);
    check_reply::<SessionReply>(input);
    check_reply::<CountReply>(input);
    check_reply::<ErrorReply>(input);
}

fn check_resolve(request: &ResolveRequest) {
    assert!((1..=MAX_SESSIONS).contains(&request.sessions.len()), "{} sessions", request.sessions.len());
    let keys: BTreeSet<_> = request.sessions.iter().map(|ask| ask.key).collect();
    assert_eq!(keys.len(), request.sessions.len(), "each session is asked for once");
    for ask in &request.sessions {
        let (candidates, unusable) = (ask.candidates.len(), ask.unusable.len());
        assert!((1..=MAX_CANDIDATES).contains(&candidates) && unusable <= MAX_UNUSABLE, "{ask:?}");
        assert!(ask.alias_of != Some(ask.key) && !ask.find_only, "{ask:?}");
    }
    let body = ApiRequest::resolve(request).body;
    assert_eq!(ResolveRequest::parse(&body).as_ref(), Ok(request), "sent as it was read");
}

fn check_faults(faults: &[Fault]) {
    assert!((1..=MAX_FAULTS).contains(&faults.len()), "{} faults", faults.len());
    for fault in faults {
        assert!(!fault.message.is_empty() && fault.message.len() <= MAX_MESSAGE, "{fault:?}");
        assert!(!fault.to_string().contains(char::is_control), "a fault is one line: {fault:?}");
    }
}

fn check_reply<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<T>(input) else { return };
    let written = serde_json::to_vec(&reply).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&reply), "read as it was written");
}
