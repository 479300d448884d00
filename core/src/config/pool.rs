//! One pool of the configuration: who its members are, and its policies. Which requests it serves is a rule's matter.

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::Value;

use super::claims::ClaimBook;
use super::fields::{Faults, Fields, quoted};
use super::members::{Membership, read_membership};
use super::policy::{OnPanic, OnVanish, read_health, read_ring};
use super::session::{Session, read_session};
use crate::health::HealthPolicy;
use crate::membership::Observation;
use crate::ring::{Algorithm, MAXIMUM_POINTS, RingSize};

/// Names of Envoy's filters, clusters and stats stay readable below this.
const MAX_NAME: usize = 128;

/// One upstream cluster with its ring and policies.
#[derive(Debug)]
pub struct Pool {
    /// Its name in metrics.
    pub name: String,
    /// Where its members come from.
    pub membership: Membership,
    /// What names a session, unless a rule says otherwise.
    pub session: Rc<Session>,
    /// How its ring is built.
    pub algorithm: Algorithm,
    /// How patient it is with its nodes.
    pub health: HealthPolicy,
    /// What panic means for a request.
    pub on_panic: OnPanic,
    /// What it means for a request that its session's node vanished together with many others.
    pub on_vanish: OnVanish,
    /// Which requests take their session id along for Envoy's own hash.
    pub hash_key: HashKey,
    /// Its nodes may end sessions with a response header.
    pub end_header: bool,
}

/// Which requests take their session id along for Envoy's own hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKey {
    /// Those that Berth could not place: Envoy's ring does.
    Unplaced,
    /// All that name a session: the route draws one of its weighted clusters by the hash.
    Always,
}

impl Pool {
    /// Reads all pools: each by itself, then how they go together. One with a fault keeps its place.
    pub(super) fn read_all(
        elements: &[(String, &Value)],
        has_state: bool,
        book: &mut ClaimBook,
        faults: &mut Faults,
    ) -> Vec<Option<Self>> {
        let read = |(path, value): &(String, &Value)| Self::read(value, path, has_state, book, faults);
        let pools = elements.iter().map(read).collect();
        // On the document, because a pool with a fault is not among the pools but still a neighbour.
        let mut names = BTreeSet::new();
        for (path, value) in elements {
            let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
            if !name.is_empty() && !names.insert(name) {
                let message = format!("{} is taken by another pool: give it its own", quoted(name));
                faults.add(&format!("{path}.name"), message);
            }
        }
        pools
    }

    fn read(
        value: &Value,
        path: &str,
        has_state: bool,
        book: &mut ClaimBook,
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", "name the pool, as its metrics will", faults);
        if let Some(name) = name {
            check_name(name, &fields.path_of("name"), faults);
        }
        let membership = read_membership(&mut fields, faults);
        // Read where the rule is made.
        fields.value("match");
        let session = Rc::new(read_session(&mut fields, has_state, book, faults));
        let algorithm = read_ring(&mut fields, faults);
        if let Some(Membership::Static(members)) = &membership {
            check_points(members, algorithm, &fields.path_of("members"), faults);
        }
        let (health, on_panic, on_vanish) = read_health(&mut fields, faults);
        let choices = [("unplaced", HashKey::Unplaced), ("always", HashKey::Always)];
        let hash_key = fields.choice("hash_key", &choices, faults).unwrap_or(HashKey::Unplaced);
        let end_header = fields.flag("end_header", false, faults);
        if end_header && !has_state {
            let message = "needs pins that can be ended: add state, or leave it out";
            faults.add(&fields.path_of("end_header"), message);
        }
        fields.finish(faults);
        let (name, membership) = (name?.to_owned(), membership?);
        Some(Self { name, membership, session, algorithm, health, on_panic, on_vanish, hash_key, end_header })
    }
}

/// A name that becomes part of stats and shared keys.
pub(super) fn check_name(name: &str, path: &str, faults: &mut Faults) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > MAX_NAME || !name.chars().all(fits) {
        faults.add(path, format!("must be 1 to {MAX_NAME} letters, digits, - or _, is {}", quoted(name)));
    }
}

/// A ring of listed members that could never be built is a fault now, not an error on the first request.
fn check_points(members: &[Observation], algorithm: Algorithm, path: &str, faults: &mut Faults) {
    let Algorithm::RingHash(RingSize::VirtualNodes(virtual_nodes)) = algorithm else { return };
    let weights = || members.iter().map(|member| u64::from(member.weight));
    let smallest = weights().min().unwrap_or(1).max(1);
    let points = (u64::from(virtual_nodes) * weights().sum::<u64>()).div_ceil(smallest);
    if points > MAXIMUM_POINTS {
        faults.add(
            path,
            format!(
                "would make a ring of {points} points, the most is {MAXIMUM_POINTS}: \
                 take fewer virtual_nodes, or weights closer to each other"
            ),
        );
    }
}
