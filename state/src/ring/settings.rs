//! What `berth ring` is asked, checked: settings that exist are right, and every fault is reported at once.
use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{Ipv6Addr, SocketAddr},
    str::FromStr,
};

use berth_core::ring::{
    Algorithm, DEFAULT_MINIMUM_RING_SIZE, DEFAULT_TABLE_SIZE, DEFAULT_VIRTUAL_NODES, MAXIMUM_POINTS, Member,
    Ring, RingSize, session_hash,
};
use berth_core::wire::NodeId;
use berth_state::given::{Fault, Given, choice, number};
use clap::{Args, ValueEnum};

use crate::format::Format;
use crate::operator::{Pins, Server};

/// Answer offline which node a session belongs to, and which come next
///
/// The answer is that of an Envoy ring_hash or maglev cluster with the same members, all healthy, listed in the
/// same order. Sizes default to 512 virtual nodes for each unit of the smallest weight.
///
/// A pin may name another node: a session stays where it began. If --server or BERTH_SERVER names a state service, the
/// pins of the sessions that are named as arguments are shown too.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    // No doc comment: rustdoc would take the brackets for a link.
    #[arg(
        long = "member",
        value_name = "IP:PORT[=WEIGHT]",
        help = "A node, for example 10.0.0.1:8080, 10.0.0.2:8080=3 or [::1]:8080; once for each node"
    )]
    members: Vec<String>,

    /// How members share keys [default: ring-hash]
    #[arg(long, value_name = "NAME", value_parser = choice::<Name>())]
    algorithm: Option<Given<Name>>,

    /// Points on the ring per unit of the smallest weight [default: 512]
    #[arg(long, value_name = "N", value_parser = number(0..=u32::MAX))]
    virtual_nodes: Option<Given<u32>>,

    /// Size the ring by Envoy's formula instead: at least N points [default then: 1024]
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    minimum_ring_size: Option<Given<u64>>,

    /// Size the ring by Envoy's formula instead: at most N points [default then: 8388608]
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    maximum_ring_size: Option<Given<u64>>,

    /// Slots of the maglev table, a prime; implies --algorithm maglev [default then: 65537]
    #[arg(long, value_name = "N", value_parser = number(0..=u32::MAX))]
    maglev_table_size: Option<Given<u32>>,

    /// Session ids; without any, one a line from standard input, where empty lines are skipped
    #[arg(value_name = "KEY")]
    pub(super) keys: Vec<OsString>,

    #[command(flatten)]
    server: Server,
}

const HELP: &str = "\
Examples:
  berth ring --member 10.0.0.1:80 --member 10.0.0.2:80=2 ada bob
  berth ring --member 10.0.0.1:80 --member 10.0.0.2:80 --server http://127.0.0.1:8650 --pool games ada
  berth ring --member 10.0.0.1:80 --member 10.0.0.2:80 --format json < ids | jq -r .owner | sort | uniq -c

JSON has one object a line; its hash is a 64-bit integer.
Exit code: 0 answered, also if the state service cannot be reached; 1 the input cannot be read; 2 the command line is wrong";

pub(super) struct Settings {
    pub(super) members: Vec<Member>,
    pub(super) ring: Ring,
    pub(super) format: Format,
    /// Where to ask for pins.
    pub(super) pins: Option<Pins>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    RingHash,
    Maglev,
    Rendezvous,
}

impl Settings {
    /// The ring's choice for a session.
    pub(super) fn owner(&self, id: &[u8]) -> Option<&str> {
        let first = self.ring.candidates(session_hash(id)).next()?;
        self.members.get(first).map(|member| member.key.as_str())
    }

    /// # Errors
    /// All faults, each naming the argument and what to do.
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let members = members(&arguments.members, &mut faults);
        let algorithm = algorithm(arguments, &mut faults);
        let format = arguments.server.format(&mut faults);
        let pins = Pins::of(&arguments.server, &mut faults);
        for (position, _) in (1..).zip(&arguments.keys).filter(|(_, key)| key.is_empty()) {
            faults.push(Fault::new(
                format!("KEY {position}"),
                "is empty: no session has an empty id, leave it out",
            ));
        }
        let (Some(algorithm), Some(format), true) = (algorithm, format, faults.is_empty()) else {
            return Err(faults);
        };
        match Ring::build(&members, algorithm) {
            Ok(ring) => Ok(Self { members, ring, format, pins }),
            Err(error) => Err(vec![Fault::new("ring", error.to_string())]),
        }
    }
}

fn members(texts: &[String], faults: &mut Vec<Fault>) -> Vec<Member> {
    if texts.is_empty() {
        let message = "is missing: give at least one, for example --member 10.0.0.1:8080";
        faults.push(Fault::new("--member", message));
    }
    let mut known = BTreeSet::new();
    let mut members = Vec::new();
    for text in texts {
        match member(text) {
            Ok(member) if known.insert(member.key.clone()) => members.push(member),
            Ok(member) => {
                let message = format!("{} is given twice, leave one out", member.key);
                faults.push(Fault::new(format!("--member {text}"), message));
            }
            Err(fault) => faults.push(Fault::new(format!("--member {text}"), fault)),
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
        Ok(address) if address.port() == 0 => Err("port 0 is not a port, use one from 1 to 65535".to_owned()),
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

/// `None` if an argument of it is wrong.
fn algorithm(arguments: &Arguments, faults: &mut Vec<Fault>) -> Option<Algorithm> {
    let before = faults.len();
    let has_virtual_nodes = arguments.virtual_nodes.is_some();
    let by_envoy = arguments.minimum_ring_size.is_some() || arguments.maximum_ring_size.is_some();
    let by_table = arguments.maglev_table_size.is_some();
    let virtual_nodes = value(&arguments.virtual_nodes, DEFAULT_VIRTUAL_NODES, faults);
    let minimum = value(&arguments.minimum_ring_size, DEFAULT_MINIMUM_RING_SIZE, faults);
    let maximum = value(&arguments.maximum_ring_size, MAXIMUM_POINTS, faults);
    let table_size = value(&arguments.maglev_table_size, DEFAULT_TABLE_SIZE, faults);
    let default = if by_table { Name::Maglev } else { Name::RingHash };
    let name = value(&arguments.algorithm, default, faults);

    if has_virtual_nodes && by_envoy {
        let message = "exclude each other: leave one out";
        faults.push(Fault::new("--virtual-nodes and --minimum-ring-size or --maximum-ring-size", message));
    }
    // A wrong algorithm says nothing about what goes with it.
    let name = name?;
    if name != Name::RingHash && (has_virtual_nodes || by_envoy) {
        let message = "are for --algorithm ring-hash: leave them out, or use that";
        faults.push(Fault::new("ring sizes", message));
    }
    if name != Name::Maglev && by_table {
        let message = "is for --algorithm maglev: leave it out, or use that";
        faults.push(Fault::new("--maglev-table-size", message));
    }
    if faults.len() > before {
        return None;
    }
    let algorithm = match name {
        Name::RingHash if by_envoy => {
            Algorithm::RingHash(RingSize::Envoy { minimum: minimum?, maximum: maximum? })
        }
        Name::RingHash => Algorithm::RingHash(RingSize::VirtualNodes(virtual_nodes?)),
        Name::Maglev => Algorithm::Maglev { table_size: table_size? },
        Name::Rendezvous => Algorithm::Rendezvous,
    };
    algorithm.validate().map_err(|error| faults.push(Fault::new("ring", error.to_string()))).ok()?;
    Some(algorithm)
}

/// What was given, else the default; `None` if it is wrong.
fn value<T: Clone>(given: &Option<Given<T>>, default: T, faults: &mut Vec<Fault>) -> Option<T> {
    match given {
        Some(given) => given.clone().take(faults),
        None => Some(default),
    }
}
