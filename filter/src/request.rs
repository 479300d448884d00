//! One request's decision: identify the session, place it, name its node.
//!
//! Its stream decides it at once, or it waits for what this VM has yet to learn, and is then decided again from the
//! start, by the root. So whatever a decision reads must be there while the request is paused, and nothing may be
//! counted of one that is to wait.

use std::cell::RefCell;
use std::rc::Rc;

use berth_core::config::Missing;
use berth_core::decision::Placement;
use berth_core::event::{Reason, Unplaced};
use berth_core::pins::Seat;
use berth_core::session::{self, SessionId};
use berth_core::snapshot::Snapshot;

use crate::host;
use crate::pinned::Home;
use crate::plugin::Plugin;
use crate::verdict::Verdict;
use crate::waiting::Need;

/// How often an id is drawn so that its owner takes new sessions: with half of the nodes draining, one in 256 is not.
const DRAWS: usize = 8;

/// What was decided of a request, and what it keeps to its end.
#[derive(Default)]
pub(crate) struct Request {
    pub(crate) verdict: Verdict,
    /// The Set-Cookie value of a session that began with it.
    pub(crate) cookie: Option<Vec<u8>>,
    /// Which session it belongs to, where pins are kept.
    pub(crate) session: Option<SessionId>,
    /// As long as the request lasts its session is in use.
    pub(crate) seat: Option<Seat>,
}

/// Where a request that waits to be decided again will find itself; `Verdict::None` until then.
pub(crate) type Ticket = Rc<RefCell<Request>>;

impl Request {
    /// Decides the request of the effective context, which is `home`'s, for the pool at this place in the configuration.
    pub(crate) fn decide(plugin: &Plugin, pool: usize, home: Home) -> Self {
        let mut request = Self::default();
        request.place(plugin, pool, home);
        request.catch_up();
        request
    }

    /// Whoever let this request go on has left its verdict.
    pub(crate) fn catch_up(&mut self) {
        while let Verdict::Parked(ticket) = &self.verdict {
            let request = ticket.take();
            if matches!(request.verdict, Verdict::None) {
                return;
            }
            *self = request;
        }
        if let Verdict::Waiting(slot) = &self.verdict {
            let verdict = slot.take();
            if !matches!(verdict, Verdict::None) {
                self.verdict = verdict;
            }
        }
        if matches!(self.verdict, Verdict::Replied) {
            self.cookie = None;
        }
    }

    fn place(&mut self, plugin: &Plugin, index: usize, home: Home) {
        let Some(pool) = plugin.pools.get(index) else { return };
        let snapshot = pool.snapshot();
        let found = session::identify(&pool.config.sources, &mut host::request_header);
        let id = match (found, &pool.config.missing) {
            (Some(id), _) => id,
            (None, Missing::IssueCookie(template)) => match draw(snapshot.as_deref()) {
                Some(id) => {
                    self.cookie = template.set_cookie(&id);
                    id
                }
                None => {
                    self.verdict = Verdict::sessionless(pool);
                    return;
                }
            },
            (None, Missing::Pass) => {
                self.verdict = Verdict::sessionless(pool);
                return;
            }
            (None, Missing::Reject) => {
                let sources = session::describe(&pool.config.sources);
                let body = format!("berth: this request names no session; send one as {sources}\n");
                self.verdict = Verdict::reject(plugin, pool, 400, Reason::NoSession, &body);
                return;
            }
        };
        self.verdict = match (&snapshot, &pool.pinned) {
            (None, Some(_)) if let Some(ticket) = plugin.wait(home, index, Need::Snapshot) => {
                Verdict::Parked(ticket)
            }
            (None, _) => Verdict::leave_to_envoy(pool, &id, Unplaced::NoSnapshot, Reason::NoSnapshot),
            (Some(snapshot), Some(pinned)) => {
                let (verdict, seat) = pinned.borrow_mut().decide(plugin, pool, snapshot, &id, home);
                self.seat = Some(seat);
                self.session = Some(id);
                verdict
            }
            (Some(snapshot), None) => {
                let placement = Placement::of(snapshot, id.hash());
                Verdict::of(plugin, pool, &id, snapshot, placement)
            }
        };
    }
}

/// A new session's id. Its owner should be a node that takes new sessions; ids are free, so draw another if not.
fn draw(snapshot: Option<&Snapshot>) -> Option<SessionId> {
    let mut id = SessionId::from_random(host::random()?);
    for _ in 1..DRAWS {
        let fits = snapshot.is_none_or(|snapshot| {
            Placement::of(snapshot, id.hash()).is_ok_and(|placement| placement.takes_new(snapshot))
        });
        if fits {
            break;
        }
        id = SessionId::from_random(host::random()?);
    }
    Some(id)
}
