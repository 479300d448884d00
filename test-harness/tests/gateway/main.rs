//! The resources for Envoy Gateway, translated as it does and run by a real Envoy.

#[path = "../support/mod.rs"]
mod support;

mod placing;
mod resources;
