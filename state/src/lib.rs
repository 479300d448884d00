//! The state service: pins that survive scaling.
//!
//! Thin over its store: [`store`] has the contract and two implementations. Read next: `store.rs`, then `store/placing.rs`.

pub mod store;
