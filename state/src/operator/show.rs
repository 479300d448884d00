//! Answers as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use berth_core::wire::{CountReply, Event, NodeRecord, NodeState, SessionReply};
use serde::Serialize;

use super::envoy::InEnvoy;

/// A node in a list.
#[derive(Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    record: NodeRecord,
    /// As a proxy has it, if one was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    envoy: Option<InEnvoy>,
    /// How many it has, if they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<u64>,
}

impl From<NodeRecord> for Listed {
    fn from(record: NodeRecord) -> Self {
        Self { record, envoy: None, sessions: None }
    }
}

/// The nodes of a proxy, in its order, with what is on record of them; then those that only the record knows.
pub(super) fn join(nodes: Vec<(String, InEnvoy)>, records: Vec<NodeRecord>) -> Vec<Listed> {
    let mut records: BTreeMap<String, NodeRecord> =
        records.into_iter().map(|record| (record.node.to_string(), record)).collect();
    let mut listed = Vec::new();
    for (name, envoy) in nodes {
        // One that cannot be in a pin gets no sessions, and has no record.
        let Ok(node) = name.parse() else { continue };
        let record = records.remove(&name).unwrap_or_else(|| NodeRecord::unknown(node));
        listed.push(Listed { record, envoy: Some(envoy), sessions: None });
    }
    let absent = |record| Listed { record, envoy: Some(InEnvoy::ABSENT), sessions: None };
    listed.extend(records.into_values().map(absent));
    listed
}

/// Adds how many sessions each node has, also those that are not listed yet. Says below the table what was counted.
pub(super) fn count(listed: &mut Vec<Listed>, reply: CountReply) -> String {
    let mut counts = reply.nodes;
    for node in listed.iter_mut() {
        node.sessions = Some(counts.remove(&node.record.node).unwrap_or(0));
    }
    let has_envoy = listed.iter().any(|node| node.envoy.is_some());
    for (node, sessions) in counts {
        let envoy = has_envoy.then_some(InEnvoy::ABSENT);
        listed.push(Listed { record: NodeRecord::unknown(node), envoy, sessions: Some(sessions) });
    }
    match reply.complete {
        true => format!("SESSIONS are all {} that have a pin.\n", reply.pins),
        false => format!("SESSIONS are a sample: of {} that have a pin; there are more.\n", reply.pins),
    }
}

/// What stands below a table of what is on record.
pub(super) const ONLY_RECORDED: &str = "Nodes of which nothing was said are active and not listed: --admin URL, of an Envoy, lists all that it has.\n";

/// A table of nodes, when the store's clock showed `now`; without it by this machine's.
pub(super) fn nodes(nodes: &[Listed], now: Option<u64>) -> String {
    let now = now.unwrap_or_else(now_ms);
    let has_envoy = nodes.iter().any(|node| node.envoy.is_some());
    let has_count = nodes.iter().any(|node| node.sessions.is_some());
    let sessions = |text: String| if has_count { format!("{text:>8}  ") } else { String::new() };
    let in_envoy = |text: &str| if has_envoy { format!("{text:<10} ") } else { String::new() };
    let mut text = format!(
        "NODE                   {}{}STATE      OPERATOR   ITSELF     WEIGHT  COOLDOWN  VERSION  BOOT ID / NOTE\n",
        in_envoy("ENVOY"),
        sessions("SESSIONS".to_owned()),
    );
    for Listed { record, envoy, sessions: count } in nodes {
        let count = sessions(count.map_or_else(|| "-".to_owned(), |count| count.to_string()));
        let envoy = in_envoy(envoy.as_ref().map_or("-", |envoy| envoy.health));
        let (state, operator) = (record.state.name(), record.operator_state().name());
        let itself = record.self_state.map_or("-", NodeState::name);
        let weight = record.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string());
        let cooldown = match record.cooldown_until_ms.map(|until| until.saturating_sub(now)) {
            None | Some(0) => "-".to_owned(),
            Some(left) => duration(left),
        };
        let boot_id = record.boot_id.as_deref().unwrap_or("-");
        let note = record.note.as_deref().map(|note| format!("  {note}")).unwrap_or_default();
        let (node, version) = (record.node.to_string(), record.version);
        let _ = writeln!(
            text,
            "{node:<22} {envoy}{count}{state:<10} {operator:<10} {itself:<10} {weight:>6}  {cooldown:>8}  {version:>7}  {boot_id}{note}"
        );
    }
    text
}

/// A pin, line by line.
pub(super) fn session(session: &SessionReply) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<8} {value}");
    };
    line("pool", session.pool.to_string());
    line("key", session.key.to_string());
    line("node", session.node.to_string());
    let cooldown = if session.owner.is_in_cooldown(now_ms()) { ", in cooldown" } else { "" };
    let note = session.owner.note.as_deref().map(|note| format!(" ({note})")).unwrap_or_default();
    line("state", format!("{}{cooldown}{note}", session.owner.state.name()));
    line("version", session.version.to_string());
    if let Some(version) = session.session_version {
        line("session", format!("version {version}"));
    }
    if let Some(former) = session.alias_of {
        line("alias of", former.to_string());
    }
    if let Some(created) = session.created_ms {
        line("created", format!("{} ago", duration(now_ms().saturating_sub(created))));
    }
    line("age", duration(session.age_ms));
    line("here for", duration(session.owned_ms));
    line("expires", format!("in {} unless used", duration(session.ttl_ms)));
    if let Some(idle) = session.idle_ttl_ms {
        line("idle ttl", duration(idle));
    }
    if let Some(ends) = session.ends_ms {
        line("ends", format!("in {} even if used", duration(ends.saturating_sub(now_ms()))));
    }
    for (position, happened) in session.events.iter().enumerate() {
        line(if position == 0 { "changes" } else { "" }, event(happened).trim_end().to_owned());
    }
    text
}

/// A change, on one line.
pub(super) fn event(event: &Event) -> String {
    let mut text = format!("{} {}", utc(event.time_ms), event.kind.name());
    let mut word = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    };
    word("key", event.key.map(|key| key.to_string()));
    word("node", event.node.as_ref().map(|node| node.to_string()));
    word("from", event.from.as_ref().map(|node| node.to_string()));
    word("state", event.record.as_ref().map(|record| record.state.name().to_owned()));
    let cooldown = event.record.as_ref().and_then(|record| record.cooldown_until_ms);
    let left = cooldown.and_then(|until| until.checked_sub(event.time_ms)).filter(|left| *left > 0);
    word("cooldown", left.map(duration));
    word("version", event.version.map(|version| version.to_string()));
    word("session_version", event.session_version.map(|version| version.to_string()));
    word("reason", Some(event.reason.name().to_owned()));
    // Any text may be in it; a terminal must not obey it.
    word("correlation_id", event.correlation_id.as_ref().map(|id| id.escape_debug().to_string()));
    text.push('\n');
    text
}

/// In the two largest units that it has.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => format!("{ms}ms"),
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Time of day in UTC; who watches knows the date.
fn utc(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_shown_in_its_two_largest_units() {
        for (ms, shown) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (59_999, "59s"),
            (60_000, "1m00s"),
            (1_799_534, "29m59s"),
            (3_600_000, "1h00m"),
            (2_592_000_000, "720h00m"),
        ] {
            assert_eq!(duration(ms), shown);
        }
    }
}
