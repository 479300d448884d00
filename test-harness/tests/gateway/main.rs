//! The resources for Envoy Gateway, translated as it does.

mod resources;
