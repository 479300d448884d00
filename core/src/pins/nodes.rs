//! The names of nodes, once each, behind numbers of 16 bits.
//!
//! A name is kept while the node is a member or some pin names it, so nodes that come and go leave nothing behind.
//! Members know their place in the snapshot: from a pin to its node is one step, with no name compared.

use crate::wire::MAX_NODE_NAME;

/// A node's number in one cache. It stays good as long as a pin bears it or the node is a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRef(pub(super) u16);

const NOT_A_MEMBER: u32 = u32::MAX;

/// Without a name its number is free.
#[derive(Debug, Default, Clone)]
struct Node {
    name: Box<str>,
    pins: u32,
    member: u32,
}

/// All nodes of one cache.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    free: Vec<u16>,
    /// The named ones in the order of their names.
    by_name: Vec<u16>,
    /// The members in the order of the snapshot.
    members: Vec<u16>,
    name_bytes: usize,
    /// What all this may take.
    max_bytes: usize,
}

impl Nodes {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            by_name: Vec::new(),
            members: Vec::new(),
            name_bytes: 0,
            max_bytes,
        }
    }

    /// The number of a name, old or new; `None` if there is no room for another, or this is no name.
    pub(super) fn intern(&mut self, name: &str) -> Option<NodeRef> {
        match self.position(name) {
            Ok(place) => self.by_name.get(place).copied().map(NodeRef),
            Err(place) => self.add(name, place),
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<NodeRef> {
        self.position(name).ok().and_then(|place| self.by_name.get(place).copied()).map(NodeRef)
    }

    pub(super) fn name(&self, node: NodeRef) -> Option<&str> {
        self.get(node).map(|node| &*node.name).filter(|name| !name.is_empty())
    }

    /// The node's place in the snapshot, if it is a member.
    pub(super) fn member(&self, node: NodeRef) -> Option<usize> {
        self.get(node).filter(|node| node.member != NOT_A_MEMBER).map(|node| node.member as usize)
    }

    /// Another pin bears the number.
    pub(super) fn retain(&mut self, node: NodeRef) {
        if let Some(node) = self.nodes.get_mut(usize::from(node.0)) {
            node.pins += 1;
        }
    }

    /// One pin less bears it.
    pub(super) fn release(&mut self, node: NodeRef) {
        let Some(held) = self.nodes.get_mut(usize::from(node.0)) else { return };
        held.pins = held.pins.saturating_sub(1);
        self.free_if_unused(node);
    }

    /// Makes these the members, and drops whatever is neither a member nor pinned.
    pub(super) fn adopt<'m>(&mut self, members: impl Iterator<Item = &'m str> + Clone) {
        let known = self.members.iter().map(|member| self.name(NodeRef(*member)).unwrap_or_default());
        if known.eq(members.clone()) {
            return;
        }
        let former = std::mem::take(&mut self.members);
        for member in &former {
            if let Some(node) = self.nodes.get_mut(usize::from(*member)) {
                node.member = NOT_A_MEMBER;
            }
        }
        for (place, name) in (0..NOT_A_MEMBER).zip(members) {
            let Some(node) = self.intern(name) else { continue };
            if let Some(held) = self.nodes.get_mut(usize::from(node.0))
                && held.member == NOT_A_MEMBER
            {
                held.member = place;
                self.members.push(node.0);
            }
        }
        for member in former {
            self.free_if_unused(NodeRef(member));
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + (self.free.capacity() + self.by_name.capacity() + self.members.capacity()) * size_of::<u16>()
            + self.name_bytes
    }

    fn get(&self, node: NodeRef) -> Option<&Node> {
        self.nodes.get(usize::from(node.0))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.by_name
            .binary_search_by(|node| self.get(NodeRef(*node)).map_or("", |node| &*node.name).cmp(name))
    }

    fn add(&mut self, name: &str, place: usize) -> Option<NodeRef> {
        if name.is_empty() || name.len() > MAX_NODE_NAME || !self.has_room(name.len()) {
            return None;
        }
        let node = self.number(Node { name: name.into(), pins: 0, member: NOT_A_MEMBER })?;
        self.name_bytes += name.len();
        self.by_name.insert(place.min(self.by_name.len()), node);
        Some(NodeRef(node))
    }

    /// Whether another number may be had, and so many bytes for its name. The three lists grow later than the nodes,
    /// but as far.
    fn has_room(&self, name: usize) -> bool {
        let capacity = self.nodes.capacity();
        let full = self.free.is_empty() && self.nodes.len() == capacity;
        let capacity = if full { (capacity * 2).max(4) } else { capacity };
        let each = size_of::<Node>() + 3 * size_of::<u16>();
        (!self.free.is_empty() || self.nodes.len() <= usize::from(u16::MAX))
            && capacity * each + self.name_bytes + name <= self.max_bytes
    }

    fn number(&mut self, node: Node) -> Option<u16> {
        if let Some(number) = self.free.pop() {
            *self.nodes.get_mut(usize::from(number))? = node;
            return Some(number);
        }
        let number = u16::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node);
        Some(number)
    }

    fn free_if_unused(&mut self, node: NodeRef) {
        let is_unused = |node: &&Node| node.pins == 0 && node.member == NOT_A_MEMBER;
        let Some(name) = self.get(node).filter(is_unused).map(|node| &*node.name) else { return };
        // One that is free already has no place.
        let Ok(place) = self.position(name) else { return };
        self.by_name.remove(place);
        if let Some(freed) = self.nodes.get_mut(usize::from(node.0)).map(std::mem::take) {
            self.name_bytes -= freed.name.len();
            self.free.push(node.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(members: &[&str]) -> Nodes {
        let mut nodes = Nodes::new(1 << 20);
        nodes.adopt(members.iter().copied());
        nodes
    }

    #[test]
    fn members_know_their_place_and_others_have_none() {
        let mut nodes = nodes(&["b", "a"]);
        let stranger = nodes.intern("c").unwrap();

        let places: Vec<_> =
            ["a", "b", "c"].iter().map(|name| nodes.member(nodes.find(name).unwrap())).collect();

        assert_eq!(places, [Some(1), Some(0), None]);
        assert_eq!(nodes.name(stranger), Some("c"));
        assert_eq!(nodes.find("d"), None);
    }

    #[test]
    fn a_name_stays_as_long_as_a_pin_or_the_membership_needs_it() {
        let mut nodes = nodes(&["a", "b"]);
        let (a, b) = (nodes.find("a").unwrap(), nodes.find("b").unwrap());
        nodes.retain(a);

        nodes.adopt(["c"].into_iter());

        assert_eq!((nodes.name(a), nodes.member(a)), (Some("a"), None));
        assert_eq!(nodes.name(b), None);
        nodes.release(a);
        assert_eq!(nodes.name(a), None);
        assert_eq!(nodes.by_name.len(), 1);
    }

    #[test]
    fn coming_and_going_leaves_nothing_behind() {
        let mut nodes = nodes(&[]);
        let mut sizes = Vec::new();
        for round in 0..100 {
            let names: Vec<String> = (0..50).map(|node| format!("10.0.{round}.{node}:80")).collect();
            nodes.adopt(names.iter().map(String::as_str));
            sizes.push(nodes.nodes.len());
        }

        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        nodes.adopt([].into_iter());
        assert_eq!((nodes.name_bytes, nodes.by_name.len(), nodes.free.len()), (0, 0, nodes.nodes.len()));
    }

    #[test]
    fn takes_no_more_than_it_may_and_no_name_that_is_none() {
        let mut nodes = Nodes::new(2_000);

        let taken = (0..1_000).filter(|node| nodes.intern(&format!("node-{node}")).is_some()).count();

        assert!((20..50).contains(&taken) && nodes.memory_bytes() <= 2_000, "{taken}");
        assert_eq!(nodes.intern(""), None);
        assert_eq!(Nodes::new(1 << 20).intern(&"x".repeat(MAX_NODE_NAME + 1)), None);
    }

    #[test]
    fn the_last_number_is_refused_politely() {
        let mut nodes = Nodes::new(1 << 30);
        for node in 0..=u16::MAX {
            assert!(nodes.intern(&node.to_string()).is_some());
        }

        assert_eq!(nodes.intern("one more"), None);
        assert!(nodes.intern("7").is_some());
    }
}
