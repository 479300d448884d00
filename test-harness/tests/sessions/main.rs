//! Which session a request belongs to, and that it stays with its node.

#[path = "../support/mod.rs"]
mod support;

mod affinity;
mod bad_input;
mod destination;
mod guard;
mod identity;
mod issued;
mod missing;
mod protocols;
mod reset;
