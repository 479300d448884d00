//! Calls to the state cluster: when it is slow, away, starting, or asks for a token.

#[path = "../support/mod.rs"]
mod support;

mod mixed;
mod start;
mod state_access;
mod state_authority;
mod state_coalescing;
mod state_failures;
mod state_limited;
mod state_redis;
mod state_shards;
mod state_silent;
