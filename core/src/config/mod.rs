//! The plugin configuration: JSON in, a [`Config`] that is right or the whole list of faults out.
//!
//! What a field means is in `docs/OPERATIONS.md`; the shape is also published as `envoy/berth.schema.json`. A `Config`
//! is compiled: sources, templates and policies are ready for the request path.

mod claims;
mod document;
pub(crate) mod fields;
mod matching;
mod members;
mod policy;
mod pool;
mod rule;
mod session;
mod source;
mod state;
mod token;

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::time::Millis;
use crate::token::Wanted;

use self::claims::ClaimBook;
use self::document::Document;
pub use self::fields::Fault;
use self::fields::{Faults, Fields, is_number, shown};
pub use self::matching::{ClaimMatch, HeaderMatch, Match};
pub use self::members::Membership;
pub use self::policy::{OnPanic, OnVanish};
pub use self::pool::{HashKey, Pool};
pub use self::rule::{Affinity, Rule};
pub use self::session::{Missing, Session, Superseded};
pub use self::state::StateCluster;
pub use self::token::{JwtProvider, OnInvalid, RemoteKeys, Verification};

/// The one version there is.
const VERSION: u32 = 1;
/// Below, Envoy's main thread would do little else; above, a dead node would keep its sessions for too long.
const POLL_INTERVAL: RangeInclusive<Millis> = Millis(100)..=Millis(60_000);
/// Each pool has its own ring, roster and stats in every worker.
const MAX_POOLS: usize = 64;

/// Who removes Berth's own headers from what clients and backends send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// The filter does.
    #[default]
    Filter,
    /// Envoy's listener and routes have done so before.
    Listener,
}

/// A plugin configuration that is right.
#[derive(Debug)]
pub struct Config {
    /// The cluster whose only host is this Envoy's own admin interface.
    pub admin_cluster: String,
    /// How often the leader asks it; large clusters are asked less often.
    pub poll_interval: Millis,
    /// Answer with the debug header.
    pub debug_header: bool,
    /// Who removes forged headers.
    pub guard: Guard,
    /// Who remembers which node holds a session; without it, the ring's answer is the placement.
    pub state: Option<StateCluster>,
    /// The issuers whose tokens may name sessions.
    pub jwt_providers: Vec<JwtProvider>,
    /// What is looked at of their tokens, by the providers' places.
    pub wanted: Vec<Wanted>,
    /// Where sessions may live.
    pub pools: Vec<Pool>,
    /// Which of them serves a request, and how: first match wins.
    pub rules: Vec<Rule>,
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Every fault, in the order of the document.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let document = match Document::read(json, &mut faults) {
            Ok(document) => document,
            Err(error) => return Err(vec![not_json(json, &error)]),
        };
        let config = Self::read(&document.value, &mut faults);
        match config {
            Some(config) if faults.0.is_empty() => Ok(config),
            _ => Err(document.in_order(faults)),
        }
    }

    fn read(document: &Value, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(document, "", faults);
        let version = fields.required("v", "say \"v\": 1, the version of this format", faults);
        if let Some(version) = version.filter(|version| !is_number(version, VERSION)) {
            faults.add("v", format!("must be {VERSION}, the only version there is, is {}", shown(version)));
            if version.is_number() {
                // What the fields of another version mean, and which there are, is not known here.
                return None;
            }
        }
        let admin_cluster = fields.string("admin_cluster", faults).unwrap_or("berth_admin").to_owned();
        let poll_interval = fields.duration("poll_interval", POLL_INTERVAL, faults).unwrap_or(Millis(1000));
        let debug_header = fields.flag("debug_header", false, faults);
        let choices = [("filter", Guard::Filter), ("listener", Guard::Listener)];
        let guard = fields.choice("guard", &choices, faults).unwrap_or_default();
        let state = StateCluster::read(&mut fields, faults);
        let jwt_providers = JwtProvider::read_all(&mut fields, faults);
        let elements = fields.required_array("pools", MAX_POOLS, "name at least one pool", faults);
        let mut book = ClaimBook::new(fields.value("jwt_providers"));
        // One that cannot be read is there all the same.
        let has_state = fields.value("state").is_some();
        let pools = Pool::read_all(&elements, has_state, &mut book, faults);
        let rules = Rule::read_all(&mut fields, &elements, &pools, has_state, &mut book, faults);
        fields.finish(faults);
        // All of them, or there is a fault.
        let pools = pools.into_iter().flatten().collect();
        Some(Self {
            admin_cluster,
            poll_interval,
            debug_header,
            guard,
            state,
            jwt_providers,
            wanted: book.close(),
            pools,
            rules,
        })
    }
}

/// What stands instead of JSON, as far as one can tell.
fn not_json(json: &[u8], error: &serde_json::Error) -> Fault {
    /// The tag of an entry of a binary `google.protobuf.Struct`, and that of each entry's value. JSON text cannot hold
    /// the second.
    const STRUCT_TAGS: (u8, u8) = (0x0a, 0x12);
    let message = if json.trim_ascii().is_empty() {
        "is empty: give it as a google.protobuf.StringValue with JSON text".to_owned()
    } else if json.first() == Some(&STRUCT_TAGS.0) && json.contains(&STRUCT_TAGS.1) {
        "is a binary google.protobuf.Struct: give it as a google.protobuf.StringValue with JSON text"
            .to_owned()
    } else if json.starts_with(b"\xef\xbb\xbf") {
        "starts with a byte order mark, which is not JSON: save it without".to_owned()
    } else {
        format!("is not JSON: {error}")
    };
    Fault { path: String::new(), message }
}
