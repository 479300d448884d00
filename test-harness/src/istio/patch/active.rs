//! The patches of one proxy, each with an account of what it did.

use std::cell::{Cell, RefCell};

use super::filter::{ApplyTo, Context, EnvoyFilter, Operation, Patch};
use super::merge::{Lists, merge};
use super::{Outcome, Proxy};

use serde_json::Value;

/// A patch, and what it did so far.
pub(super) struct Active<'f> {
    filter: &'f EnvoyFilter,
    index: usize,
    pub(super) patch: &'f Patch,
    /// Why it cannot act on this proxy at all.
    excluded: Option<String>,
    changed: Cell<usize>,
    dropped: RefCell<Option<String>>,
}

/// All patches of these filters, in order.
pub(super) fn patches<'f>(filters: &[&'f EnvoyFilter], proxy: &Proxy) -> Vec<Active<'f>> {
    let of_filter = |&filter: &&'f EnvoyFilter| {
        filter.patches.iter().enumerate().map(move |(index, patch)| Active {
            filter,
            index,
            patch,
            excluded: exclusion(patch, proxy),
            changed: Cell::new(0),
            dropped: RefCell::new(None),
        })
    };
    filters.iter().flat_map(of_filter).collect()
}

fn exclusion(patch: &Patch, proxy: &Proxy) -> Option<String> {
    let version = &proxy.istio_version;
    if let Some(wanted) = patch.version.as_ref().filter(|wanted| !wanted.is_match(version)) {
        return Some(format!("proxyVersion {wanted} does not match {version}"));
    }
    if patch.operation == Operation::MergeAndReplaceList {
        if matches!(patch.apply_to, ApplyTo::NetworkFilter | ApplyTo::HttpFilter) {
            return Some("MERGE_AND_REPLACE_LIST is ignored for filters".into());
        }
        if minor(version) < 31 {
            return Some(format!("Istio {version} does not know MERGE_AND_REPLACE_LIST"));
        }
    }
    None
}

/// The 31 of 1.31.0.
fn minor(version: &str) -> u32 {
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.unwrap_or_else(|| panic!("{version}: expected a version such as 1.31.0"))
}

impl Active<'_> {
    /// Whether it is for objects of this kind and context.
    pub(super) fn is_for(&self, apply_to: ApplyTo, context: Context) -> bool {
        self.is_of(apply_to) && (self.patch.context == context || self.patch.context == Context::Any)
    }

    /// Whether it is for objects of this kind, whatever their context.
    pub(super) fn is_of(&self, apply_to: ApplyTo) -> bool {
        self.excluded.is_none() && self.patch.apply_to == apply_to
    }

    pub(super) fn is(&self, operation: Operation) -> bool {
        self.patch.operation == operation
    }

    /// Counts objects that it changed.
    pub(super) fn changed(&self, objects: usize) {
        self.changed.set(self.changed.get() + objects);
    }

    /// Keeps the first reason why it left an object that it matched as it was.
    pub(super) fn drop_because(&self, reason: impl Into<String>) {
        self.dropped.borrow_mut().get_or_insert_with(|| reason.into());
    }

    /// Merges its value into an object.
    pub(super) fn merge_into(&self, object: &mut Value) {
        let lists = if self.is(Operation::MergeAndReplaceList) { Lists::Replace } else { Lists::Append };
        merge(object, &self.patch.value, self.patch.message(), lists);
        self.changed(1);
    }

    /// What it did in all.
    pub(super) fn outcome(self) -> Outcome {
        let changed = self.changed.get();
        let silence = || (changed == 0).then(|| "nothing matches".to_owned());
        let dropped = self.excluded.or(self.dropped.into_inner()).or_else(silence);
        Outcome { filter: self.filter.full_name(), patch: self.index, changed, dropped }
    }
}
