//! A fleet, simulated: the real proxies and the real store, on one clock, from one seed.
//!
//! In the order to read: [`schedule`] has the faults of a run, [`run`] the run itself, [`invariants`] what must hold.
//! [`fleet`] drives each proxy as the wasm adapter does, with reloads, [`service`] and [`store`] are the state service, [`network`] is what
//! lies between, [`nodes`] and [`clients`] are the world. [`mutants`] are faults that are put in on purpose, [`shrink`] makes a
//! failing schedule short, [`story`] tells it.
//!
//! It decides nothing that the product decides. Indexes are of lists that this crate made itself.

pub mod clients;
pub mod fleet;
pub mod invariants;
pub mod mutants;
pub mod network;
pub mod nodes;
pub mod random;
pub mod run;
pub mod schedule;
pub mod service;
pub mod shrink;
pub mod store;
pub mod story;
