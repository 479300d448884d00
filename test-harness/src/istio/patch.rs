//! A first few of the rules by which istiod applies EnvoyFilters: as much as the shipped ones need.
#![allow(missing_docs)]
use serde_json::Value;
use std::collections::BTreeMap;
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub listeners: Vec<Value>,
    pub clusters: Vec<Value>,
    pub routes: Vec<Value>,
    pub extensions: Vec<Value>,
}
#[derive(Clone, Copy, Debug)]
pub enum Role {
    Gateway,
    Sidecar,
}
#[derive(Clone, Debug)]
pub struct Proxy {
    pub role: Role,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub istio_version: String,
}
#[derive(Clone, Debug)]
pub struct EnvoyFilter(Value);
impl EnvoyFilter {
    pub fn parse(v: &Value) -> Result<Self, String> {
        Ok(Self(v.clone()))
    }
}
#[derive(Clone, Debug)]
pub struct Outcome {
    pub filter: String,
    pub patch: usize,
    pub changed: usize,
    pub dropped: Option<String>,
}
fn merge(to: &mut Value, v: &Value) {
    match (to, v) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                merge(a.entry(k).or_insert(Value::Null), v)
            }
        }
        (Value::Array(a), Value::Array(b)) => a.extend(b.iter().cloned()),
        (a, b) => *a = b.clone(),
    }
}
pub fn apply(r: &mut Resources, fs: &[EnvoyFilter], p: &Proxy) -> Vec<Outcome> {
    let mut out = Vec::new();
    for f in fs {
        let labels = f.0["spec"]["workloadSelector"]["labels"].as_object().cloned().unwrap_or_default();
        if !labels.iter().all(|(k, v)| p.labels.get(k).map(String::as_str) == v.as_str()) {
            continue;
        }
        for (i, c) in f.0["spec"]["configPatches"].as_array().unwrap().iter().enumerate() {
            let v = &c["patch"]["value"];
            let mut changed = 0;
            match c["applyTo"].as_str().unwrap() {
                "CLUSTER" => {
                    for cl in &mut r.clusters {
                        if cl["name"] == c["match"]["cluster"]["name"] {
                            merge(cl, v);
                            changed += 1;
                        }
                    }
                }
                "EXTENSION_CONFIG" => {
                    r.extensions.push(v.clone());
                    changed += 1;
                }
                _ => {
                    for l in &mut r.listeners {
                        if l["name"].as_str().unwrap().starts_with("virtual") {
                            continue;
                        }
                        let port = &c["match"]["listener"]["portNumber"];
                        if port.is_u64() && *port != l["address"]["socket_address"]["port_value"] {
                            continue;
                        }
                        let m = &mut l["filter_chains"][0]["filters"][0]["typed_config"];
                        if c["applyTo"] == "HTTP_FILTER" {
                            let fs = m["http_filters"].as_array_mut().unwrap();
                            let n = fs.len();
                            fs.insert(n - 1, v.clone());
                        } else {
                            merge(m, &v["typed_config"]);
                        }
                        changed += 1;
                    }
                }
            }
            out.push(Outcome {
                filter: f.0["metadata"]["name"].as_str().unwrap().into(),
                patch: i,
                changed,
                dropped: None,
            });
        }
    }
    out
}
