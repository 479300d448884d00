//! The resources for Envoy Gateway, translated as it does and run by a real Envoy.

#[path = "../support/mod.rs"]
mod support;

mod patches;
mod placing;
mod resources;
mod tls;
mod trap;
mod trapping;
mod worlds;
