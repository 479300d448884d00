//! Where a pool's members come from: Envoy's cluster, or a list.

use serde_json::Value;

use super::fields::{Faults, Fields, kind};
use super::pool::Membership;
use crate::membership::{HostFlags, Observation};

pub(super) fn read_membership(
    fields: &mut Fields<'_>,
    expected: bool,
    faults: &mut Faults,
) -> Option<Membership> {
    let cluster = fields.string("cluster", faults);
    let members = fields.array("members", faults);
    match (cluster, members) {
        (Some(_), Some(_)) => {
            faults.add(
                &fields.path_of("members"),
                "and cluster exclude each other: the members come from Envoy's cluster or from this list",
            );
            None
        }
        (Some(cluster), None) => Some(Membership::Cluster(cluster.to_owned())),
        (None, Some(elements)) => {
            if elements.is_empty() {
                faults.add(&fields.path_of("members"), "name at least one member");
            }
            let mut members: Vec<Observation> = Vec::new();
            for (path, value) in &elements {
                let Some(member) = read_member(value, path, faults) else { continue };
                if members.iter().any(|other| other.address == member.address) {
                    faults.add(path, format!("{} is listed twice", member.address));
                }
                members.push(member);
            }
            Some(Membership::Static(members))
        }
        (None, None) => {
            if expected && fields.value("cluster").is_none() && fields.value("members").is_none() {
                faults.add(&fields.path_of("cluster"), "is missing: name Envoy's cluster, or list members");
            }
            None
        }
    }
}

/// `"10.0.0.1:80"` or `{"address": "10.0.0.1:80", "weight": 2}`.
fn read_member(value: &Value, path: &str, faults: &mut Faults) -> Option<Observation> {
    let (address, weight) = match value {
        Value::String(address) => (Some(address.as_str()), 1),
        Value::Object(_) => {
            let mut fields = Fields::of(value, path, faults);
            let address = fields.required_string("address", faults);
            let weight = fields.number("weight", 1..=128, faults).unwrap_or(1);
            fields.finish(faults);
            (address, weight)
        }
        other => {
            faults.add(path, format!("must be an address or an object, is {}", kind(other)));
            return None;
        }
    };
    let address = address?;
    if address.parse::<std::net::SocketAddr>().is_err() {
        faults.add(path, format!("must be ip:port or [ipv6]:port, is {address:?}"));
        return None;
    }
    Some(Observation {
        address: address.to_owned(),
        weight: u32::try_from(weight).unwrap_or(1),
        locality: String::new(),
        priority: 0,
        flags: HostFlags::default(),
    })
}
