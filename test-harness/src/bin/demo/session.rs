//! The sessions of the demo's players.

/// A session, and what it was called before.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) previous: Option<String>,
}

impl Session {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), previous: None }
    }
}
