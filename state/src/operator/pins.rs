//! The pins of sessions, for `berth ring`: where they are beside where the ring would put them.

use berth_core::wire::{ApiRequest, PoolName, SessionKey, SessionReply};
use berth_state::given::Fault;

use super::arguments::Server;
use super::asked::Asked;
use super::client::Failure;

/// A state service to ask for pins.
pub(crate) struct Pins(Asked);

impl Pins {
    /// Asks the service that a flag or a variable names. `None` if neither does, or at a fault.
    pub(crate) fn of(server: &Server, faults: &mut Vec<Fault>) -> Option<Self> {
        if server.is_named() { Asked::new(server, faults).map(Self) } else { None }
    }

    pub(crate) fn pool(&self) -> &PoolName {
        &self.0.pool
    }

    /// The pin of each session, if it has one.
    ///
    /// # Errors
    /// What the service said, or why it cannot be reached.
    pub(crate) fn find(&self, ids: &[&[u8]]) -> Result<Vec<Option<SessionReply>>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let found = runtime.map_err(|error| error.to_string())?.block_on(async {
            let mut pins = Vec::new();
            for id in ids {
                let key = SessionKey::new(self.0.pool(), id);
                match self.0.send(&ApiRequest::session(self.0.pool(), key)).await {
                    Ok(pin) => pins.push(Some(pin)),
                    Err(Failure::Absent(_)) => pins.push(None),
                    Err(failure) => return Err(failure),
                }
            }
            Ok(pins)
        });
        found.map_err(|failure| failure.to_string())
    }
}
