//! The session as a verified token names it: its id, when it began, and what it was called before.

use std::rc::Rc;

use super::SessionId;
use crate::time::Millis;
use crate::token::{Facts, Refusal, Slot};

/// What a request's token at one provider came to.
#[derive(Debug, Clone)]
pub enum Token {
    /// It has none.
    Absent,
    /// It is true, and says this.
    Verified(Rc<Facts>),
    /// It is not to be believed.
    Refused(Refusal),
    /// It will be known soon.
    Pending(Awaited),
    /// There is no telling now, which is not its sender's fault.
    Unchecked,
}

/// What is waited for until a token can be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// The keys that could tell are on their way.
    Keys,
    /// Its check has to wait for its turn.
    Check,
}

/// The claims that name a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSource {
    /// The provider's place in the configuration, and its name.
    pub provider: (usize, String),
    /// The claims whose values are the id, together if there are several.
    pub id: Vec<Slot>,
    /// The former value of the last of them.
    pub previous: Option<Slot>,
    /// The version of the id.
    pub version: Option<Slot>,
    /// When the session began.
    pub created: Option<Slot>,
}

/// What a token says of its session besides the id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// What it was called before the last rotation.
    pub previous: Option<SessionId>,
    /// Grows with each rotation.
    pub version: Option<u32>,
    /// When it began.
    pub created: Option<Millis>,
    /// It should say when it began, and does not.
    pub is_undated: bool,
    /// The provider of the token that says so.
    pub provider: Option<usize>,
}

impl ClaimSource {
    /// The session that these facts name; none if a claim is missing.
    pub(super) fn find(&self, facts: &Facts) -> Option<(SessionId, History)> {
        let values: Vec<&str> = self.id.iter().map(|slot| facts.text(*slot)).collect::<Option<_>>()?;
        let id = joined(&values)?;
        let previous = self.previous.and_then(|slot| {
            let mut values = values;
            *values.last_mut()? = facts.text(slot)?;
            joined(&values).filter(|previous| *previous != id)
        });
        let version = self.version.and_then(|slot| facts.version(slot));
        let created = self.created.and_then(|slot| facts.time(slot));
        let is_undated = self.created.is_some() && created.is_none();
        let provider = Some(self.provider.0);
        Some((id, History { previous, version, created, is_undated, provider }))
    }
}

/// One value as it is; of several each with its length before it, so that no two lists read the same.
fn joined(values: &[&str]) -> Option<SessionId> {
    if let [value] = values {
        return SessionId::from_slice(value.as_bytes());
    }
    let part =
        |value: &&str| Some(format!("{}:{value}", SessionId::from_slice(value.as_bytes())?.as_bytes().len()));
    SessionId::new(values.iter().map(part).collect::<Option<String>>()?.into_bytes())
}
