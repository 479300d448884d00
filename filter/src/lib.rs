//! Berth's Envoy filter: callbacks in, hostcalls out, every decision in `berth_core`.
//!
//! [`root`] lives once per VM: it reads the configuration, keeps each pool's snapshot fresh and, in one VM per Envoy,
//! polls the membership. [`stream`] lives once per request. Both work through the [`worker`], which carries out
//! what the proxy of `berth_core` says: [`effects`] is the only place that writes a header or answers a request, [`shared`]
//! what the VMs share, [`metrics`] what Envoy counts, and [`host`] all calls to Envoy.
#![expect(missing_docs, reason = "the SDK's macro exports a function without any")]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod effects;
mod host;
mod metrics;
mod root;
mod shared;
mod stream;
mod worker;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(root::Root::new(id)));
}}
