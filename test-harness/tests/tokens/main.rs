//! Sessions named by tokens: keys, claims, versions and former ids.

#[path = "../support/mod.rs"]
mod support;

mod as_sent;
mod bounds;
mod rotation;
mod terms;
mod tokens;
