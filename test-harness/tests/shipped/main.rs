//! The shipped files that users copy, the errors of a wrong configuration, and the harness itself.

#[path = "../support/mod.rs"]
mod support;

mod bad_configuration;
mod chart;
mod compose;
mod demo;
mod harness;
mod host;
mod hostcalls;
mod images;
mod leaving;
mod operator;
mod shipped_config;
mod wire;
