//! How Berth is switched on: rules, pools, percentages and reloads.

#[path = "../support/mod.rs"]
mod support;

mod pools;
mod reload;
mod rollout;
