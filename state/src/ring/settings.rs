//! What `berth ring` was asked, checked: settings that exist are right, and every fault is told at once.
use std::{
    collections::BTreeSet,
    net::{Ipv6Addr, SocketAddr},
    str::FromStr,
};

use berth_core::ring::{
    Algorithm, DEFAULT_MINIMUM_RING_SIZE, DEFAULT_TABLE_SIZE, DEFAULT_VIRTUAL_NODES, MAXIMUM_POINTS, Member,
    Ring, RingSize,
};
use berth_core::wire::NodeId;

use super::Arguments;

pub(super) struct Settings {
    pub(super) members: Vec<Member>,
    pub(super) ring: Ring,
    pub(super) format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    RingHash,
    Maglev,
    Rendezvous,
}

const ALGORITHMS: [(&str, Name); 3] =
    [("ring-hash", Name::RingHash), ("maglev", Name::Maglev), ("rendezvous", Name::Rendezvous)];
const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

impl Settings {
    /// # Errors
    /// All faults, each naming the argument and what to do.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let members = members(&arguments.members, &mut faults);
        let algorithm = algorithm(arguments, &mut faults);
        let format =
            choice("--format", arguments.format.as_deref(), &FORMATS, &mut faults).unwrap_or(Format::Text);
        for (position, _) in (1..).zip(&arguments.keys).filter(|(_, key)| key.is_empty()) {
            faults.push(format!("KEY {position} is empty: no session has an empty id, leave it out"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        match Ring::build(&members, algorithm) {
            Ok(ring) => Ok(Self { members, ring, format }),
            Err(error) => Err(vec![error.to_string()]),
        }
    }
}

fn members(texts: &[String], faults: &mut Vec<String>) -> Vec<Member> {
    if texts.is_empty() {
        faults.push("no --member: give at least one, for example --member 10.0.0.1:8080".to_owned());
    }
    let mut known = BTreeSet::new();
    let mut members = Vec::new();
    for text in texts {
        match member(text) {
            Ok(member) if known.insert(member.key.clone()) => members.push(member),
            Ok(member) => {
                faults.push(format!("--member {text}: {} is given twice, leave one out", member.key));
            }
            Err(fault) => faults.push(format!("--member {text}: {fault}")),
        }
    }
    members
}

/// The key is the address as Envoy writes it, whatever spelling was given. Addresses of internal listeners and pipes are
/// taken as they are.
fn member(text: &str) -> Result<Member, String> {
    let (address, weight) = match text.rsplit_once('=') {
        Some((address, weight)) => (address, weight),
        None => (text, "1"),
    };
    let weight = match weight.parse() {
        Ok(0) | Err(_) => Err(format!("weight `{weight}` is not a whole number from 1 to {}", u32::MAX)),
        Ok(weight) => Ok(weight),
    };
    match (key(address), weight) {
        (Ok(key), Ok(weight)) => Ok(Member::new(key, weight)),
        (Err(fault), Ok(_)) | (Ok(_), Err(fault)) => Err(fault),
        (Err(fault), Err(other)) => Err(format!("{fault}; {other}")),
    }
}

fn key(text: &str) -> Result<String, String> {
    if text.starts_with("envoy://") || text.starts_with(['/', '@']) {
        return text.parse().map(|node: NodeId| node.to_string()).map_err(|error| error.to_string());
    }
    match SocketAddr::from_str(text) {
        Ok(address) if address.port() == 0 => Err("port 0 is none, take one from 1 to 65535".to_owned()),
        Ok(address) => Ok(address.to_string()),
        Err(_) if Ipv6Addr::from_str(text).is_ok() => {
            Err("IPv6 needs brackets and a port, write for example [::1]:8080".to_owned())
        }
        Err(_) if !text.contains(':') => {
            Err("there is no port, write ip:port, for example 10.0.0.1:8080".to_owned())
        }
        Err(_) => {
            Err("not an IP address and a port, write for example 10.0.0.1:8080 or [::1]:8080; names are not \
                       looked up"
                .to_owned())
        }
    }
}

fn algorithm(arguments: &Arguments, faults: &mut Vec<String>) -> Algorithm {
    let before = faults.len();
    let virtual_nodes = number("--virtual-nodes", arguments.virtual_nodes.as_deref(), faults);
    let minimum = number("--minimum-ring-size", arguments.minimum_ring_size.as_deref(), faults);
    let maximum = number("--maximum-ring-size", arguments.maximum_ring_size.as_deref(), faults);
    let table_size = number("--maglev-table-size", arguments.maglev_table_size.as_deref(), faults);
    let named = choice("--algorithm", arguments.algorithm.as_deref(), &ALGORITHMS, faults);
    let by_envoy = arguments.minimum_ring_size.is_some() || arguments.maximum_ring_size.is_some();
    let by_table = arguments.maglev_table_size.is_some();

    let name = named.unwrap_or(if by_table { Name::Maglev } else { Name::RingHash });
    if arguments.virtual_nodes.is_some() && by_envoy {
        faults.push(
            "--virtual-nodes and --minimum-ring-size or --maximum-ring-size exclude each other: leave one out"
                .to_owned(),
        );
    }
    // An algorithm that was named wrongly says nothing about what fits it.
    if arguments.algorithm.is_none() || named.is_some() {
        if name != Name::RingHash && (arguments.virtual_nodes.is_some() || by_envoy) {
            faults.push("ring sizes are for --algorithm ring-hash: leave them out, or take that".to_owned());
        }
        if name != Name::Maglev && by_table {
            faults
                .push("--maglev-table-size is for --algorithm maglev: leave it out, or take that".to_owned());
        }
    }

    let algorithm = match name {
        Name::RingHash if by_envoy => Algorithm::RingHash(RingSize::Envoy {
            minimum: minimum.unwrap_or(DEFAULT_MINIMUM_RING_SIZE),
            maximum: maximum.unwrap_or(MAXIMUM_POINTS),
        }),
        Name::RingHash => {
            Algorithm::RingHash(RingSize::VirtualNodes(virtual_nodes.unwrap_or(DEFAULT_VIRTUAL_NODES)))
        }
        Name::Maglev => Algorithm::Maglev { table_size: table_size.unwrap_or(DEFAULT_TABLE_SIZE) },
        Name::Rendezvous => Algorithm::Rendezvous,
    };
    // With a fault above, this would blame a default that nobody chose.
    if faults.len() == before
        && let Err(error) = algorithm.validate()
    {
        faults.push(error.to_string());
    }
    algorithm
}

fn number<Number: FromStr>(option: &str, text: Option<&str>, faults: &mut Vec<String>) -> Option<Number> {
    let text = text?;
    let number = text.parse().ok();
    if number.is_none() {
        faults.push(format!("{option} {text}: not a whole number in range, write for example {option} 1031"));
    }
    number
}

fn choice<Value: Copy>(
    option: &str,
    text: Option<&str>,
    choices: &[(&str, Value)],
    faults: &mut Vec<String>,
) -> Option<Value> {
    let text = text?;
    let value = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    if value.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        faults.push(format!("{option} {text}: there is no such one, take {}", names.join(" or ")));
    }
    value
}
