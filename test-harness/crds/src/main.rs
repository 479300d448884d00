//! Checks documents of Istio and of the Gateway API against their custom resource definitions, as types that were generated from
//! them: fields that are not there, that have another type, or that are missing are faults. Arguments are files of YAML; what comes
//! on standard input is JSON, `{"name": [document, …]}`. Ends with 1 if there is a fault, having printed all.
//!
//! The crate of Istio's types has 1.27 at the latest: TrafficExtension, which came with 1.30, is not checked. Neither are the kinds of
//! Kubernetes itself, which `scripts/check-chart` checks, nor Envoy Gateway's, for which there is no crate.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::process::ExitCode;

use gateway_api::apis::standard::{gatewayclasses, gateways, httproutes};
use istio_api_rs::extensions::v1alpha1::wasm_plugin;
use istio_api_rs::networking::v1::{destination_rule, gateway, sidecar, virtual_service};
use istio_api_rs::networking::v1alpha3::envoy_filter;
use istio_api_rs::security::v1::{authorization_policy, peer_authentication};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn main() -> ExitCode {
    let mut documents: Vec<(String, Value)> = Vec::new();
    for file in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let document = Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}"));
            documents.push((file.clone(), document));
        }
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("standard input is text");
    if !text.trim().is_empty() {
        let sets: BTreeMap<String, Vec<Value>> = serde_json::from_str(&text).expect("sets of documents");
        for (name, set) in sets {
            documents.extend(set.into_iter().map(|document| (name.clone(), document)));
        }
    }

    let (mut checked, mut others, mut faults) = (0, BTreeSet::new(), 0);
    for (origin, document) in &documents {
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let Some(found) = check(version, kind, document) else {
            others.insert(format!("{kind} ({version})"));
            continue;
        };
        checked += 1;
        for fault in &found {
            println!("{origin}: {kind} {}: {fault}", document["metadata"]["name"]);
        }
        faults += found.len();
    }
    println!("{checked} documents checked, {faults} faults; of other kinds: {others:?}");
    ExitCode::from(u8::from(faults > 0 || checked == 0))
}

/// The faults of a document, if its kind is one of those that are checked.
fn check(version: &str, kind: &str, document: &Value) -> Option<Vec<String>> {
    let check = match (version, kind) {
        ("networking.istio.io/v1", "DestinationRule") => faults::<destination_rule::DestinationRule>,
        ("networking.istio.io/v1", "Gateway") => faults::<gateway::Gateway>,
        ("networking.istio.io/v1", "Sidecar") => faults::<sidecar::Sidecar>,
        ("networking.istio.io/v1", "VirtualService") => faults::<virtual_service::VirtualService>,
        ("networking.istio.io/v1alpha3", "EnvoyFilter") => faults::<envoy_filter::EnvoyFilter>,
        ("extensions.istio.io/v1alpha1", "WasmPlugin") => faults::<wasm_plugin::WasmPlugin>,
        ("security.istio.io/v1", "AuthorizationPolicy") => faults::<authorization_policy::AuthorizationPolicy>,
        ("security.istio.io/v1", "PeerAuthentication") => faults::<peer_authentication::PeerAuthentication>,
        ("gateway.networking.k8s.io/v1", "GatewayClass") => faults::<gatewayclasses::GatewayClass>,
        ("gateway.networking.k8s.io/v1", "Gateway") => faults::<gateways::Gateway>,
        ("gateway.networking.k8s.io/v1", "HTTPRoute") => faults::<httproutes::HTTPRoute>,
        _ => return None,
    };
    Some(check(document))
}

fn faults<T: DeserializeOwned>(document: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    // The types take these two as read.
    let note = |path: serde_ignored::Path<'_>| match path.to_string().as_str() {
        "apiVersion" | "kind" => {}
        path => faults.push(format!("there is no field {path}")),
    };
    let read: Result<T, _> = serde_ignored::deserialize(document, note);
    faults.extend(read.err().map(|error| error.to_string()));
    faults
}
