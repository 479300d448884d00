//! Whether a patch's kind, match, operation and value fit each other, so that istiod acts on it.

use serde_json::Value;

use super::super::messages::{Message, Use, check};
use super::{ApplyTo, CONNECTION_MANAGER, Operation, Patch};

impl ApplyTo {
    fn operations(self) -> &'static [Operation] {
        use Operation::{
            Add, InsertAfter, InsertBefore, InsertFirst, Merge, MergeAndReplaceList, Remove, Replace,
        };
        match self {
            Self::Cluster | Self::Listener | Self::FilterChain => &[Merge, MergeAndReplaceList, Remove, Add],
            // The last is accepted and ignored.
            Self::NetworkFilter | Self::HttpFilter => {
                &[Merge, Add, InsertBefore, InsertAfter, InsertFirst, Replace, Remove, MergeAndReplaceList]
            }
            Self::RouteConfiguration => &[Merge, MergeAndReplaceList],
            Self::VirtualHost => &[Merge, MergeAndReplaceList, Remove, Replace, Add],
            Self::HttpRoute => {
                &[Merge, MergeAndReplaceList, Remove, Add, InsertBefore, InsertAfter, InsertFirst]
            }
            Self::ExtensionConfig => &[Add],
            Self::ListenerFilter | Self::Bootstrap => &[],
        }
    }
}

impl Patch {
    /// Adds what is wrong with it.
    pub(super) fn check(&self, path: &str, faults: &mut Vec<String>) {
        self.check_operation(path, faults);
        self.check_match(path, faults);
        self.check_value(&format!("{path}.patch.value"), faults);
    }

    fn is_for_filter(&self) -> bool {
        matches!(self.apply_to, ApplyTo::NetworkFilter | ApplyTo::HttpFilter)
    }

    fn check_operation(&self, path: &str, faults: &mut Vec<String>) {
        let acting = self.apply_to.operations();
        match self.apply_to {
            ApplyTo::Bootstrap => faults.push(format!(
                "{path}.applyTo: no Istio since 1.21 applies BOOTSTRAP; annotate the pod with sidecar.istio.io/bootstrapOverride"
            )),
            ApplyTo::ListenerFilter => faults.push(format!(
                "{path}.applyTo: LISTENER_FILTER is not translated here; Berth has no listener filter"
            )),
            _ if !acting.contains(&self.operation) => faults.push(format!(
                "{path}.patch.operation: istiod ignores {:?} for {:?}; expected one of {acting:?}",
                self.operation, self.apply_to
            )),
            _ => {}
        }
        let needs_name = matches!(self.operation, Operation::Remove | Operation::Replace);
        if self.is_for_filter() && needs_name && self.filter_name().is_none() {
            faults.push(format!(
                "{path}.match.listener.filterChain: istiod ignores {:?} without the filter's name",
                self.operation
            ));
        }
    }

    fn check_match(&self, path: &str, faults: &mut Vec<String>) {
        let path = format!("{path}.match");
        let (is_listener, is_route) = match self.apply_to {
            ApplyTo::Listener | ApplyTo::FilterChain | ApplyTo::NetworkFilter | ApplyTo::HttpFilter => {
                (true, false)
            }
            ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => (false, true),
            _ => (false, false),
        };
        let mut refuse = |name: &str, is_there: bool, belongs: bool| {
            if is_there && !belongs {
                faults.push(format!("{path}.{name}: not for {:?}", self.apply_to));
            }
        };
        refuse("cluster", self.cluster.is_some(), self.apply_to == ApplyTo::Cluster);
        refuse("listener", self.listener.is_some(), is_listener);
        refuse("routeConfiguration", self.routes.is_some(), is_route);
        let Some(filter) = self.filter() else { return };
        let path = format!("{path}.listener.filterChain.filter");
        if !self.is_for_filter() {
            faults.push(format!("{path}: istiod ignores it for {:?}", self.apply_to));
        }
        if filter.sub_filter.is_some() {
            if self.apply_to != ApplyTo::HttpFilter {
                faults.push(format!("{path}.subFilter: only for HttpFilter"));
            } else if filter.name != CONNECTION_MANAGER {
                faults.push(format!("{path}.name: expected {CONNECTION_MANAGER} beside subFilter"));
            }
        }
    }

    fn check_value(&self, path: &str, faults: &mut Vec<String>) {
        if self.operation == Operation::Remove {
            return;
        }
        if !self.value.is_object() {
            faults.push(format!("{path}: expected an object"));
            return;
        }
        if !self.merges() {
            check(self.message(), &self.value, Use::Copy, path, faults);
        } else if self.is_for_filter() {
            self.check_only(&["name", "typed_config"], path, faults);
            check(self.message(), &self.value, Use::Copy, path, faults);
            check_unpacked(self.value.get("typed_config"), &format!("{path}.typed_config"), faults);
        } else {
            check(self.message(), &self.value, Use::Merge, path, faults);
            if let Some(socket) = self.value.get("transport_socket") {
                // Istio merges into the socket that has its name, and leaves the rest of the value.
                self.check_only(&["transport_socket"], path, faults);
                let path = format!("{path}.transport_socket.typed_config");
                check_unpacked(socket.get("typed_config"), &path, faults);
            }
        }
    }

    fn check_only(&self, names: &[&str], path: &str, faults: &mut Vec<String>) {
        for name in self.value.as_object().into_iter().flat_map(|fields| fields.keys()) {
            if !names.contains(&name.as_str()) {
                faults.push(format!(
                    "{path}.{name}: istiod ignores it here; expected {} alone",
                    names.join(" and ")
                ));
            }
        }
    }
}

/// An `Any` whose fields are merged one by one.
fn check_unpacked(any: Option<&Value>, path: &str, faults: &mut Vec<String>) {
    let Some(any) = any else { return };
    match Message::in_any(any) {
        Some(message) => check(message, any, Use::Merge, path, faults),
        None => faults.push(format!("{path}: messages.txt lacks the message that @type names; add it there")),
    }
}
