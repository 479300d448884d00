//! Where a pool's members come from: Envoy's cluster, or a list.

use std::net::SocketAddr;

use serde_json::Value;

use super::fields::{Faults, Fields, array, quoted, shown, string};
use crate::membership::Observation;

pub(super) fn read_membership(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Membership> {
    let Some(list) = fields.value("members") else {
        let advice = "name Envoy's cluster, or list the members";
        return fields
            .required_string("cluster", advice, faults)
            .map(|name| Membership::Cluster(name.to_owned()));
    };
    let path = fields.path_of("members");
    let members = read_members(list, &path, faults);
    if fields.value("cluster").is_some() {
        fields.string("cluster", faults);
        faults
            .add(&path, "does not go with cluster: keep this list, or leave the members to Envoy's cluster");
    }
    members.map(Membership::Static)
}

fn read_members(list: &Value, path: &str, faults: &mut Faults) -> Option<Vec<Observation>> {
    let elements = array(list, path, faults)?;
    if elements.is_empty() {
        faults.add(path, "is empty: list at least one member");
    }
    let mut members: Vec<Observation> = Vec::new();
    for (path, value) in &elements {
        let Some(member) = read_member(value, path, faults) else { continue };
        if members.iter().any(|other| other.address == member.address) {
            faults.add(path, format!("repeats {}: list each member once", member.address));
        }
        members.push(member);
    }
    Some(members)
}

/// Where a pool's members come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Membership {
    /// From Envoy's admin interface, where the cluster has this name.
    Cluster(String),
    /// From the configuration.
    Static(Vec<Observation>),
}

/// `"10.0.0.1:80"` or `{"address": "10.0.0.1:80", "weight": 2}`.
fn read_member(value: &Value, path: &str, faults: &mut Faults) -> Option<Observation> {
    let (address, path, weight) = match value {
        Value::String(_) => (string(value, path, faults), path.to_owned(), None),
        Value::Object(_) => {
            let mut fields = Fields::of(value, path, faults);
            let address = fields.required_string("address", "give the member's ip:port", faults);
            let weight = fields.number("weight", 1..=128, faults);
            let path = fields.path_of("address");
            fields.finish(faults);
            (address, path, weight)
        }
        other => {
            let message = "must be an address, such as \"10.0.0.1:80\", or an object with address and weight";
            faults.add(path, format!("{message}, is {}", shown(other)));
            return None;
        }
    };
    Some(Observation {
        address: read_address(address?, &path, faults)?,
        weight: weight.unwrap_or(1),
        ..Observation::default()
    })
}

/// Envoy looks a destination up by its text, so only one way to write an address will do.
fn read_address(text: &str, path: &str, faults: &mut Faults) -> Option<String> {
    let Some(address) = text.parse::<SocketAddr>().ok().filter(|address| address.port() > 0) else {
        faults.add(path, format!("must be ip:port or [ipv6]:port, is {}", quoted(text)));
        return None;
    };
    if address.to_string() != text {
        faults.add(
            path,
            format!("must be written as Envoy does, {:?}, is {}", address.to_string(), quoted(text)),
        );
        return None;
    }
    Some(text.to_owned())
}
