//! What a request asks for: the name under which it is admitted, counted and guarded.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Resolve,
    Touch,
    Changes,
    Counts,
    Nodes,
    Node,
    Session,
}

impl Call {
    /// The name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Touch => "touch",
            Self::Changes => "changes",
            Self::Counts => "counts",
            Self::Nodes => "nodes",
            Self::Node => "node",
            Self::Session => "session",
        }
    }
}
