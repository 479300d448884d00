//! What a request asks for: the name under which it is admitted, counted and guarded.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Resolve,
    Touch,
    Changes,
    Nodes,
    Node,
    Session,
}
