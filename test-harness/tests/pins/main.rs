//! With a state cluster: where sessions live, at small and large numbers.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod clients;
mod held;
mod issued;
mod lost_writes;
mod minted;
mod pins;
mod pins_nodes;
mod pins_scale;
mod scale;
