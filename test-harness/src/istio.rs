//! Istio's part, played by the harness. No istiod runs here.

pub mod extension;
pub mod patch;
