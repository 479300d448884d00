//! What servers of a Cluster say of its slots: who has them, how new that is, and where a call has to go instead.

use std::collections::BTreeSet;

use redis::Value;

pub(super) type Address = (String, u16);

/// The cluster as one server sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Ranges of slots, each with its primary.
    pub(super) ranges: Vec<(u16, u16, Address)>,
    pub(super) replicas: BTreeSet<Address>,
    /// Grows with each change of roles that the servers agree on. 0 where an ACL keeps it from us.
    pub(super) epoch: u64,
    /// The server believes that it is with the others. One that is cut off may count epochs alone.
    pub(super) is_ok: bool,
}

impl View {
    /// From the answers to `CLUSTER SLOTS` and `CLUSTER INFO`.
    pub(super) fn read(slots: &Value, info: &Value, own_host: &str) -> Option<Self> {
        let Value::Array(parts) = slots else { return None };
        let (mut ranges, mut replicas) = (Vec::new(), BTreeSet::new());
        for range in parts {
            let Value::Array(range) = range else { return None };
            let [Value::Int(from), Value::Int(to), nodes @ ..] = range.as_slice() else { return None };
            let mut nodes = nodes.iter().map(|node| address(node, own_host));
            if let Some(Some(primary)) = nodes.next() {
                ranges.push((u16::try_from(*from).ok()?, u16::try_from(*to).ok()?, primary));
            }
            replicas.extend(nodes.flatten());
        }
        let info: String = redis::from_redis_value(info.clone()).unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok()).unwrap_or(0);
        let is_ok = field("cluster_state").is_none_or(|state| state.trim() == "ok");
        Some(Self { ranges, replicas, epoch, is_ok })
    }
}

/// A node's host, port and more; `None` if it cannot be connected to: its name is missing, or it has no port of our kind, with
/// TLS or without.
fn address(node: &Value, own_host: &str) -> Option<Address> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        _ => String::new(),
    };
    // It does not know its own; "?" is a name that is missing.
    let host = if host.is_empty() { own_host.to_owned() } else { host };
    let port = u16::try_from(*port).ok().filter(|port| *port > 0)?;
    (host != "?").then_some((host, port))
}

/// Where `3999 127.0.0.1:6381` leads. A server that does not know its own host leaves that out.
pub(super) fn redirection(details: &str, own_host: &str) -> Option<Address> {
    let (host, port) = details.split(' ').nth(1)?.rsplit_once(':')?;
    let host = if host.is_empty() { own_host } else { host };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (host != "?").then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read() {
        let to = |details| redirection(details, "own");
        assert_eq!(to("3999 127.0.0.1:6381"), Some(("127.0.0.1".to_owned(), 6381)));
        assert_eq!(to("3999 :6381"), Some(("own".to_owned(), 6381)));
        assert_eq!(to("3999 ::1:6381"), Some(("::1".to_owned(), 6381)));
        for text in ["", "3999", "3999 x", "3999 x:y", "3999 x:70000", "3999 x:0", "3999 ?:6381"] {
            assert_eq!(to(text), None, "{text}");
        }
    }

    fn node(host: Option<&str>, port: i64) -> Value {
        let host = host.map_or(Value::Nil, |host| Value::BulkString(host.as_bytes().to_vec()));
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    #[test]
    fn nodes_that_cannot_be_connected_to_are_left_out() {
        let range = |from, primary, replica| {
            Value::Array(vec![Value::Int(from), Value::Int(from + 9), primary, replica])
        };
        let slots = Value::Array(vec![
            range(0, node(Some("a"), 7), node(Some("b"), 8)),
            range(10, node(Some(""), 7), node(Some("?"), 8)),
            range(20, node(None, 7), node(Some("c"), 0)),
            range(30, node(Some("?"), 7), node(Some("d"), 8)),
            range(40, node(Some("e"), 0), node(Some("b"), 8)),
        ]);
        let info = Value::BulkString(b"cluster_state:fail\r\ncluster_current_epoch:12\r\n".to_vec());

        let view = View::read(&slots, &info, "own").unwrap();

        let at = |host: &str| (host.to_owned(), 7);
        assert_eq!(view.ranges, [(0, 9, at("a")), (10, 19, at("own")), (20, 29, at("own"))]);
        assert_eq!(view.replicas, ["b", "d"].map(|host| (host.to_owned(), 8)).into());
        assert_eq!((view.epoch, view.is_ok), (12, false));
        assert_eq!(View::read(&Value::Okay, &info, "own"), None);
        let refused = redis::parse_redis_value(b"-NOPERM no\r\n").unwrap();
        let view = View::read(&slots, &refused, "own").unwrap();
        assert_eq!((view.epoch, view.is_ok), (0, true));
    }
}
