//! Berth's Envoy filter: callbacks in, hostcalls out, every decision in `berth_core`.
//!
//! [`root`] lives once per VM: it reads the configuration, keeps each pool's snapshot fresh and, in one VM per Envoy,
//! polls the membership: [`watch`]. [`stream`] lives once per request, which [`request`] decides, if need be after a stay in the
//! [`waiting`] room. [`plugin`] is what root and streams share, [`shared`] what the VMs
//! share, and [`host`] the only place that calls the proxy.
#![expect(missing_docs, reason = "the SDK's macro exports a function without any")]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod feed;
mod host;
mod issuer;
mod metrics;
mod pinned;
mod plugin;
mod request;
mod root;
mod rules;
mod shared;
mod stream;
mod tokens;
mod verdict;
mod waiting;
mod watch;

use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(root::Root::new(id)));
}}
