//! The plugin configuration: JSON in, a [`Config`] that is right or the whole list of faults out.
//!
//! What a field means is in `docs/OPERATIONS.md`; the shape is also published as `envoy/berth.schema.json`. A `Config`
//! is compiled: sources, templates and policies are ready for the request path.

pub(crate) mod fields;
mod members;
mod policy;
mod pool;
mod session;

use serde_json::Value;

use crate::time::Millis;

pub use self::fields::Fault;
use self::fields::{Faults, Fields};
pub use self::pool::{Match, Membership, Missing, OnPanic, Pool};

/// The one version there is.
const VERSION: u64 = 1;
/// Names of Envoy's filters, clusters and stats stay readable below this; and it bounds what a fault repeats.
const MAX_NAME: usize = 128;
/// Each pool has its own ring, roster and stats in every worker.
const MAX_POOLS: usize = 64;

/// A plugin configuration that is right.
#[derive(Debug)]
pub struct Config {
    /// The cluster whose only host is this Envoy's own admin interface.
    pub admin_cluster: String,
    /// How often the leader asks it; large clusters are asked less often.
    pub poll_interval: Millis,
    /// Answer with the debug header.
    pub debug_header: bool,
    /// First match wins.
    pub pools: Vec<Pool>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Every fault, in the order of the document.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let document: Value = serde_json::from_slice(json).map_err(|error| {
            // The first byte of a protobuf Struct's first field.
            let hint = match json.first() {
                None => " (it is empty)",
                Some(0x0a) if json.get(1) != Some(&b'{') => {
                    " (a google.protobuf.Struct arrives in binary: use a google.protobuf.StringValue with JSON text)"
                }
                Some(_) => "",
            };
            faults.add("", format!("the configuration is not JSON: {error}{hint}"));
            std::mem::take(&mut faults.0)
        })?;
        let config = Self::read(&document, &mut faults);
        match config {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(faults.0),
        }
    }

    fn read(document: &Value, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(document, "", faults);
        if document.is_object() {
            match fields.value("v") {
                None => faults.add("v", format!("is missing: say \"v\": {VERSION}")),
                Some(_) => {
                    fields.number("v", VERSION..=VERSION, faults);
                }
            }
        }
        let admin_cluster = fields.string("admin_cluster", faults).unwrap_or("berth_admin").to_owned();
        let poll_interval =
            fields.duration("poll_interval", Millis(1000), Millis(100)..=Millis(60_000), faults);
        let debug_header = fields.flag("debug_header", false, faults);
        let elements = fields.array("pools", faults);
        if document.is_object() && elements.as_ref().map_or(fields.value("pools").is_none(), Vec::is_empty) {
            faults.add("pools", "name at least one pool");
        }
        let elements = elements.unwrap_or_default();
        if elements.len() > MAX_POOLS {
            faults.add("pools", format!("must be at most {MAX_POOLS}, are {}", elements.len()));
        }
        let pools: Vec<Pool> =
            elements.iter().filter_map(|(path, value)| Pool::read(value, path, faults)).collect();
        for (index, pool) in pools.iter().enumerate() {
            if pools.iter().take(index).any(|other| other.name == pool.name) {
                faults.add(
                    &format!("pools[{index}].name"),
                    format!("{:?} is taken by another pool", pool.name),
                );
            }
            if index + 1 < pools.len() && pool.matches.is_everything() {
                faults.add(
                    &format!("pools[{index}].match"),
                    "is missing: this pool takes every request, so the pools after it get none",
                );
            }
        }
        fields.finish(faults);
        Some(Self { admin_cluster, poll_interval, debug_header, pools })
    }
}

/// A name that becomes part of stats and shared keys.
fn check_name(name: &str, path: &str, faults: &mut Faults) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > MAX_NAME || !name.chars().all(fits) {
        faults.add(path, format!("must be 1 to {MAX_NAME} letters, digits, - or _, is {name:?}"));
    }
}
