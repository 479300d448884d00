//! The state service: pins that survive scaling.
//!
//! Thin over its store. In the order to read: [`store`] has the contract and its implementations, [`api`] is HTTP in and
//! out, [`changes`] lets polls wait, [`issuer`] has the keys of operators' tokens, [`settings`], [`server`] and
//! [`connections`] run it as `berth serve`. [`given`] reads flags and variables for all commands.

pub mod api;
pub mod changes;
pub mod connections;
mod expiry;
mod follow;
pub mod given;
pub mod issuer;
mod lock;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod store;
pub mod tls;

pub use api::{Access, Limits, router};
