//! What the engine makes of it, in the words of transcripts.

use std::fmt::Write as _;

use berth_core::affinity::Call;
use berth_core::decision::{Decision, Notice};
use berth_core::event::Reason;
use berth_core::wire::SessionKey;
use serde_json::Value;

use super::START;
use super::worker::{CallKind, Worker};

impl Worker {
    /// What a call asks.
    pub(crate) fn read(&self, call: &Call, is_renewal: bool) -> (CallKind, Vec<SessionKey>, String) {
        let name = |key: &SessionKey| self.sessions.get(key).cloned().unwrap();
        let key = |value: &Value| value.as_str().unwrap().parse::<SessionKey>().unwrap();
        if call.request.method == "DELETE" {
            let path = call.request.path.trim_start_matches("/v1/sessions/");
            let ended: SessionKey = path.split('?').next().unwrap().parse().unwrap();
            let ago = path.split_once("&ended_ago_ms=").map(|(_, ago)| format!(" {ago}ms ago"));
            let shown = format!("ends {}{}", name(&ended), ago.unwrap_or_default());
            return (CallKind::End, vec![ended], shown);
        }
        let at = |known: &Value| format!("@{}v{}", known["node"].as_str().unwrap(), known["version"]);
        let body: Value = serde_json::from_slice(&call.request.body).unwrap();
        if call.request.path == "/v1/touch" {
            let array = |name: &str| body[name].as_array().cloned().unwrap_or_default();
            let plain = array("keys").into_iter().map(|value| (key(&value), String::new()));
            let known = array("pins").into_iter().map(|pin| (key(&pin["key"]), at(&pin)));
            let sessions: Vec<(SessionKey, String)> = plain.chain(known).collect();
            let mut names: Vec<String> =
                sessions.iter().map(|(key, at)| format!("{}{at}", name(key))).collect();
            names.sort();
            let keys = sessions.into_iter().map(|(key, _)| key).collect();
            return (CallKind::Touch, keys, format!("touches {}", names.join(" ")));
        }
        let sessions = body["sessions"].as_array().unwrap();
        let list = |value: &Value| {
            let nodes: Vec<&str> =
                value.as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
            nodes.join(",")
        };
        let show = |ask: &Value| {
            let mut shown = format!("{} {}", name(&key(&ask["key"])), list(&ask["candidates"]));
            if !ask["unusable"].is_null() {
                write!(shown, " not {}", list(&ask["unusable"])).unwrap();
            }
            if !ask["alias_of"].is_null() {
                write!(shown, " was {}", name(&key(&ask["alias_of"]))).unwrap();
            }
            if let Some(version) = ask["session_version"].as_u64() {
                write!(shown, " token v{version}").unwrap();
            }
            if let Some(ttl) = ask["ttl_ms"].as_u64() {
                write!(shown, " ttl {}s", ttl / 1000).unwrap();
            }
            if let Some(ttl) = ask["claim_ttl_ms"].as_u64() {
                write!(shown, " at first {}s", ttl / 1000).unwrap();
            }
            if let Some(ends) = ask["ends_ms"].as_u64() {
                write!(shown, " ends {}s", (ends - START.0) / 1000).unwrap();
            }
            if !ask["known"].is_null() {
                write!(shown, " known{}", at(&ask["known"])).unwrap();
            }
            shown + if ask["strict"] == true { " strict" } else { "" }
        };
        let keys = sessions.iter().map(|ask| key(&ask["key"])).collect();
        let shown: Vec<String> = sessions.iter().map(show).collect();
        let panic = if body["panic"] == true { " in panic" } else { "" };
        let (kind, verb) = if is_renewal { (CallKind::Renew, "renews") } else { (CallKind::Ask, "asks") };
        (kind, keys, format!("{verb} {}{panic}", shown.join(" + ")))
    }

    pub(crate) fn label(&self, stream: u32) -> String {
        let label = self.streams.iter().find(|(_, known)| known.number == stream);
        label.map_or_else(|| format!("stream {stream}"), |(label, _)| label.clone())
    }

    pub(crate) fn node(&self, index: usize) -> String {
        self.snapshot.as_ref().unwrap().nodes[index].name.clone()
    }

    pub(crate) fn show(&self, decision: &Decision) -> String {
        match decision {
            Decision::Route { placement, notice } => {
                let mut shown =
                    format!("{} {}", self.node(placement.owner().unwrap()), placement.outcome.name());
                if placement.reason != Reason::Pin {
                    write!(shown, " {}", placement.reason.name()).unwrap();
                }
                if placement.is_strict {
                    shown.push_str(" strict");
                }
                match notice {
                    Some(Notice::Restore { version }) => write!(shown, ", restore v{version}").unwrap(),
                    Some(Notice::Rehomed { from, version }) => {
                        write!(shown, ", rehomed from {from} v{version}").unwrap();
                    }
                    None => {}
                }
                shown
            }
            Decision::Fallback { reason, .. } => format!("envoy's ring {}", reason.name()),
            Decision::Pass { reason, .. } => format!("any node {}", reason.name()),
            Decision::Reply(reply) => format!("{} {}", reply.status, reply.reason.name()),
            Decision::Bypass => "bypass".to_owned(),
        }
    }
}
