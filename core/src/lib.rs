//! Every decision of Berth, as pure functions and values.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
pub mod ring;
pub mod session;
