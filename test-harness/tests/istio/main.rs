//! envoy/istio/ as Istio would use it: the documents are what they claim, a real Envoy runs what istiod would make of them, and
//! sessions survive what happens to pods.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod documents;
mod life;
mod metrics;
mod refused;
mod variants;
mod worlds;
