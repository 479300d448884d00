//! Nodes as Envoy has them: clusters, names, priorities, weights, and the ring that follows.

#[path = "../support/mod.rs"]
mod support;

mod clusters;
mod foreign;
mod membership;
mod node_names;
mod priorities;
mod ring_agreement;
mod unknown;
mod vanished;
mod weighted;
