//! Which nodes serve: what counts as a failure, cooldowns, drains and panic.

#[path = "../support/mod.rs"]
mod support;

mod evidence;
mod failover;
mod node_states;
mod panic;
mod passive;
