//! What users copy, what a wrong configuration is told, and the harness itself.

#[path = "../support/mod.rs"]
mod support;

mod bad_configuration;
mod harness;
mod shipped_config;
