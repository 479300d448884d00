//! The state cluster: which cluster to ask for the owner of a session, how long to wait, and how many answers to keep.

use std::fmt;
use std::ops::RangeInclusive;

use super::fields::{Faults, Fields, quoted};
use crate::pins;
use crate::time::Millis;

/// A request waits that long at most. Less is below what a busy host takes to answer; more, and users would rather have
/// the ring's answer at once.
const TIMEOUT: RangeInclusive<Millis> = Millis(5)..=Millis(5_000);
/// Twenty answers of 1 ms in a row fit into it.
const DEFAULT_TIMEOUT: Millis = Millis(50);
/// Envoy's default limit of requests under way to a cluster, which all workers share.
const MAX_CALLS: RangeInclusive<usize> = 1..=1024;
/// With 1 ms an answer these are 48,000 a second; 20 workers still fit into Envoy's default limit.
const DEFAULT_MAX_CALLS: usize = 48;
/// What a cache's indexes can tell apart.
const PINS: RangeInclusive<usize> = 1..=16_777_214;
/// Below, hardly a thousand pins fit beside the names of their nodes; above is more than a worker should ever have.
const PIN_BYTES: RangeInclusive<usize> = 100_000..=1 << 30;
/// The longest name of a host, and so of an authority that is worth sending.
const MAX_HOST: usize = 255;
/// The host that is asked for if the cluster's name cannot be one: any authority that HTTP allows will do for a service
/// that is called directly.
const ANY_HOST: &str = "berth";

/// The Envoy cluster of `berth serve` instances, and how each worker deals with it.
#[derive(Clone, PartialEq, Eq)]
pub struct StateCluster {
    /// Its name.
    pub cluster: String,
    /// The `:authority` of calls: what routers, side-cars and TLS on the way go by.
    pub host: String,
    /// When a call counts as unanswered.
    pub timeout: Millis,
    /// Calls of one worker that may be under way at once.
    pub max_calls: usize,
    /// The bearer token that the service asks for.
    pub token: Option<String>,
    /// How many pins one worker keeps of each pool.
    pub pins: pins::Limits,
}

impl StateCluster {
    pub(super) fn read(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Self> {
        let value = fields.value("state")?;
        let mut fields = Fields::of(value, &fields.path_of("state"), faults);
        let advice = "name the Envoy cluster of the berth serve instances";
        let cluster = fields.required_string("cluster", advice, faults);
        let host = fields.string("host", faults).map(str::to_owned);
        if let Some(host) = host.as_ref().filter(|host| !is_authority(host)) {
            let message = "must be a host name or address with an optional port";
            faults.add(&fields.path_of("host"), format!("{message}, is {}", quoted(host)));
        }
        let timeout = fields.duration("timeout", TIMEOUT, faults).unwrap_or(DEFAULT_TIMEOUT);
        let max_calls = fields.number("max_calls", MAX_CALLS, faults).unwrap_or(DEFAULT_MAX_CALLS);
        let token = read_token(&mut fields, faults);
        let default = pins::Limits::default();
        let pins = pins::Limits {
            entries: fields.number("max_pins", PINS, faults).unwrap_or(default.entries),
            bytes: fields.number("max_pin_bytes", PIN_BYTES, faults).unwrap_or(default.bytes),
            ..default
        };
        fields.finish(faults);
        let cluster = cluster?.to_owned();
        let host = host.unwrap_or_else(|| host_of(&cluster).to_owned());
        Some(Self { cluster, host, timeout, max_calls, token, pins })
    }
}

/// Configurations are logged; tokens must not be.
impl fmt::Debug for StateCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, host, timeout, max_calls, token, pins } = self;
        f.debug_struct("StateCluster")
            .field("cluster", cluster)
            .field("host", host)
            .field("timeout", timeout)
            .field("max_calls", max_calls)
            .field("token", &token.as_ref().map(|_| "(secret)"))
            .field("pins", pins)
            .finish()
    }
}

/// The host that a cluster's name tells of. Istio names clusters `outbound|PORT|SUBSET|HOST`, and where that must be a
/// name for DNS `outbound_.PORT_.SUBSET_.HOST`.
fn host_of(cluster: &str) -> &str {
    let name = if cluster.starts_with("outbound_.") {
        let last = cluster.as_bytes().windows(2).rposition(|two| two == b"_.");
        last.and_then(|place| cluster.get(place + 2..))
    } else {
        cluster.rsplit('|').next()
    };
    name.filter(|name| is_authority(name)).unwrap_or(ANY_HOST)
}

/// Whether every HTTP implementation takes this for an authority: letters, digits, `.`, `-` and `_`, or an IPv6 address in
/// brackets, then a port or none.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let fits = |byte: u8| match address {
        Some(_) => byte.is_ascii_hexdigit() || byte == b':' || byte == b'.',
        None => byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'),
    };
    let host = address.unwrap_or(host);
    let is_port = |port: &str| matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= MAX_HOST && !host.is_empty() && host.bytes().all(fits) && port.is_none_or(is_port)
}

/// A secret, so no fault repeats it.
fn read_token(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    let value = fields.value("token")?;
    let fits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    let token = value.as_str().filter(fits);
    if token.is_none() {
        let message = "must be a string of visible ASCII characters without spaces";
        faults.add(&fields.path_of("token"), message);
    }
    token.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_ask_for_the_host_that_the_cluster_s_name_tells_of() {
        for (cluster, host) in [
            ("berth_state", "berth_state"),
            ("berth.default.svc.cluster.local", "berth.default.svc.cluster.local"),
            ("berth.example.com:8650", "berth.example.com:8650"),
            ("outbound|8650||berth.default.svc.cluster.local", "berth.default.svc.cluster.local"),
            ("outbound|8650|v1|berth.default.svc.cluster.local", "berth.default.svc.cluster.local"),
            ("outbound_.8650_._.berth.default.svc.cluster.local", "berth.default.svc.cluster.local"),
            ("outbound_.8650_.v1_.berth.default.svc.cluster.local", "berth.default.svc.cluster.local"),
            ("outbound|8650||*.example.com", ANY_HOST),
            ("outbound|8650||", ANY_HOST),
            ("httproute/default/berth/rule/0", ANY_HOST),
            ("a b", ANY_HOST),
            ("bücher", ANY_HOST),
            ("name:", ANY_HOST),
        ] {
            assert_eq!(host_of(cluster), host, "{cluster}");
        }
        assert_eq!(host_of(&"a".repeat(MAX_HOST + 1)), ANY_HOST);
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for good in ["a", "a.b-c_d", "10.0.0.1", "10.0.0.1:80", "[::1]", "[fe80::1]:8650", "a:65535"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "", ":80", "a:", "a:123456", "a:+1", "a b", "a/b", "u@a", "a|b", "::1", "[::1", "[]", "[g]",
            "[::1]x", "é",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
