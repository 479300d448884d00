//! Every decision of Berth, as pure functions and values.
//!
//! No clock, no I/O, no environment, no proxy-wasm: time, randomness and bytes come in as arguments, decisions go out
//! as values. The filter, the `berth` binary and the tests all decide by this crate.
//!
//! In the order of a request's way, which is also the order to read:
//!
//! 1. [`session`]: which session a request belongs to, over bytes.
//!    Where clients show tokens, [`token`] says whether they are true.
//! 2. [`ring`]: session hash → nodes in order, as Envoy's own hash policies would.
//! 3. [`membership`], [`cluster`], [`health`], [`roster`]: what Envoy says of its hosts and of their cluster, the state
//!    that follows, and the shared record of all that.
//! 4. [`levels`]: how Envoy's priorities share a pool's sessions. [`snapshot`], [`placement`]: one immutable view of a pool,
//!    and the placement of a session in it.
//! 5. [`passive`]: what a worker learns from its own requests.
//! 6. [`pins`]: the nodes a worker remembers of sessions, bounded.
//! 7. [`coalescer`]: the requests that wait for the state cluster, one question for all of a session.
//! 8. [`breaker`]: whether to ask it at all; [`owners`]: whether what it answers can be used; [`changelog`]: what it
//!    said of other proxies' doing.
//! 9. [`wire`]: what the filter and the state service say to each other.
//! 10. [`rollout`]: how far all this is switched on, and for which sessions.
//! 11. [`config`]: the plugin configuration, every fault at once; [`event`]: the names of all that is counted or shown;
//!     [`outage`]: when to say that something fails.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod affinity;
pub mod attributes;
pub mod breaker;
pub mod call;
pub mod changelog;
pub mod cluster;
pub mod coalescer;
pub mod config;
pub mod counters;
pub mod decision;
pub mod event;
pub mod feed;
pub mod guard;
pub mod health;
pub mod issuer;
pub mod levels;
pub mod membership;
pub mod outage;
pub mod owners;
pub mod passive;
pub mod pending;
pub mod pins;
pub mod placement;
pub mod proxy;
pub mod ring;
pub mod rollout;
pub mod roster;
pub mod session;
pub mod snapshot;
pub mod time;
pub mod token;
pub mod watch;
pub mod wire;
