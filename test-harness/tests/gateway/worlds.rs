//! Worlds of this file's tests: a proxy of Envoy Gateway, before nodes that hold sessions.

use std::time::Duration;

use berth_harness::gateway::{NameScheme, render, shipped};
use berth_harness::{Builder, World};
use serde_json::{Value, json};

use crate::support::pool;

/// A version of Envoy Gateway: its names, and the Envoy that comes nearest to its own, of those that scripts/get-envoy pins.
#[derive(Clone, Copy)]
pub(crate) struct Version {
    pub(crate) scheme: NameScheme,
    envoy: &'static str,
}

/// The oldest one whose Envoy runs Berth. It has that very Envoy.
pub(crate) const V1_6: Version = Version { scheme: NameScheme::V1, envoy: "1.36.2" };
/// The first one with the new names.
pub(crate) const V1_10: Version = Version { scheme: NameScheme::V2, envoy: "1.40.0" };

impl Version {
    /// What it makes of the shipped resources.
    pub(crate) fn bootstrap(self) -> Value {
        render(&shipped(self.scheme), self.scheme).unwrap_or_else(|faults| panic!("{faults}"))
    }

    /// A world behind this bootstrap, with a filter that looks at its nodes five times a second and shows what it decides.
    pub(crate) fn behind(self, bootstrap: Value) -> Builder {
        World::builder()
            .nodes(4)
            .rendered(bootstrap)
            .envoy_version(self.envoy)
            .health_interval(Duration::from_millis(200))
            .configuration(|json| {
                json["poll_interval"] = "200ms".into();
                json["debug_header"] = true.into();
                pool(json)["health"] = json!({"cooldown": "2s", "warm_up": "0s"});
            })
    }

    /// One behind the shipped resources, without the state cluster.
    pub(crate) fn ring_only(self, bootstrap: Value) -> Builder {
        self.behind(bootstrap).configuration(|json| {
            json.as_object_mut().unwrap().remove("state").expect("the shipped plugin has a state cluster");
        })
    }
}
