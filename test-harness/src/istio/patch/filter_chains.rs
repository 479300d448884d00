//! Patches of filter chains, of the network filters in them, and of the HTTP filters in their connection managers.

use std::slice;

use serde_json::Value;

use super::active::Active;
use super::filter::{ApplyTo, CONNECTION_MANAGER, Context, Operation};
use super::listeners::{is_virtual, matches as matches_listener};
use super::merge::merge_any;
use super::messages::fields_mut;

/// All chains of a listener.
pub(super) fn all(listener: &mut Value) -> Vec<&mut Value> {
    let mut chains = Vec::new();
    for (name, value) in listener.as_object_mut().into_iter().flatten() {
        match name.as_str() {
            "filter_chains" => chains.extend(value.as_array_mut().into_iter().flatten()),
            "default_filter_chain" => chains.push(value),
            _ => {}
        }
    }
    chains
}

/// The elements of a list, which may be absent.
pub(super) fn list<'v>(of: &'v mut Value, name: &str) -> slice::IterMut<'v, Value> {
    of.get_mut(name).and_then(Value::as_array_mut).map(|list| list.iter_mut()).unwrap_or_default()
}

/// The HTTP filters of a connection manager.
pub(super) fn http_filters(manager: &Value) -> &[Value] {
    manager.pointer("/typed_config/http_filters").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Patches a listener's chains. False if istiod's merge panics: what it did so far stays, and all further listeners are left alone.
pub(super) fn patch(listener: &mut Value, patches: &[Active<'_>], context: Context) -> bool {
    // What patches are matched with: they change chains alone.
    let whole = listener.clone();
    for chain in all(listener).into_iter().filter(|chain| has_filters(chain)) {
        if !patch_chain(chain, &whole, patches, context) {
            return false;
        }
    }
    if listener.get("default_filter_chain").is_some_and(|chain| !has_filters(chain)) {
        fields_mut(listener).remove("default_filter_chain");
    }
    let added = patches.iter().filter(|active| {
        active.is_for(ApplyTo::FilterChain, context)
            && active.is(Operation::Add)
            && matches_listener(active, &whole)
    });
    let mut chains = listener["filter_chains"].take().as_array().cloned().unwrap_or_default();
    for active in added {
        chains.push(active.patch.value.clone());
        active.changed(1);
    }
    chains.retain(has_filters);
    if chains.is_empty() {
        fields_mut(listener).remove("filter_chains");
    } else {
        listener["filter_chains"] = chains.into();
    }
    true
}

fn has_filters(chain: &Value) -> bool {
    chain.get("filters").and_then(Value::as_array).is_some_and(|filters| !filters.is_empty())
}

/// Whether istiod goes on after it.
fn patch_chain(chain: &mut Value, listener: &Value, patches: &[Active<'_>], context: Context) -> bool {
    for active in patches.iter().filter(|active| active.is_for(ApplyTo::FilterChain, context)) {
        if active.is(Operation::Add)
            || !matches_listener(active, listener)
            || !matches(active, listener, chain)
        {
            continue;
        }
        if active.is(Operation::Remove) {
            fields_mut(chain).remove("filters");
            active.changed(1);
            return true;
        }
        if let Err(reason) = merge_chain(active, chain) {
            return give_up(active, &reason);
        }
    }
    patch_network_filters(chain, listener, patches, context)
}

fn give_up(active: &Active<'_>, reason: &str) -> bool {
    active.drop_because(format!("istiod's merge panics, further listeners are not patched: {reason}"));
    false
}

/// A socket of the same name is merged, and then the rest of the value is not.
fn merge_chain(active: &Active<'_>, chain: &mut Value) -> Result<(), String> {
    let patch = active.patch.value.get("transport_socket");
    let old = chain.get_mut("transport_socket");
    match (old, patch) {
        (Some(old), Some(patch)) if old["name"] == patch["name"] => {
            if let (Some(old), Some(patch)) = (old.get_mut("typed_config"), patch.get("typed_config")) {
                merge_any(old, patch)?;
                active.changed(1);
            }
        }
        _ => active.merge_into(chain),
    }
    Ok(())
}

fn matches(active: &Active<'_>, listener: &Value, chain: &Value) -> bool {
    let Some(wanted) = &active.patch.listener else { return true };
    let conditions = &chain["filter_chain_match"];
    let goes_to = |port: u32| port == 0 || conditions["destination_port"] == port;
    if is_virtual(listener) && !goes_to(wanted.port_number) {
        return false;
    }
    let Some(wanted) = &wanted.filter_chain else { return true };
    let is = |wanted: &str, value: &Value| wanted.is_empty() || value == wanted;
    let has = |list: &str, text: &str| {
        conditions[list].as_array().is_some_and(|list| list.iter().any(|one| one == text))
    };
    is(&wanted.name, &chain["name"])
        && (wanted.sni.is_empty() || has("server_names", &wanted.sni))
        && is(&wanted.transport_protocol, &conditions["transport_protocol"])
        && (wanted.application_protocols.is_empty()
            || wanted.application_protocols.split(',').all(|one| has("application_protocols", one)))
        && goes_to(wanted.destination_port)
}

fn patch_network_filters(
    chain: &mut Value,
    listener: &Value,
    patches: &[Active<'_>],
    context: Context,
) -> bool {
    let conditions = chain.clone();
    let reaches =
        |active: &Active<'_>| matches_listener(active, listener) && matches(active, listener, &conditions);
    let own = |apply_to: ApplyTo| {
        let is_own = move |active: &&Active<'_>| active.is_for(apply_to, context) && reaches(active);
        patches.iter().filter(is_own).collect::<Vec<_>>()
    };
    let (of_network, of_http) = (own(ApplyTo::NetworkFilter), own(ApplyTo::HttpFilter));
    let filters = chain["filters"].as_array_mut().expect("a chain with filters");
    for active in &of_network {
        place(active, filters);
    }
    for filter in filters {
        if !merge_filter(filter, &of_network) {
            return false;
        }
        if filter["name"] == CONNECTION_MANAGER {
            let in_manager = |active: &&&Active<'_>| {
                active.patch.filter().is_none_or(|wanted| filter["name"] == wanted.name.as_str())
            };
            let in_manager: Vec<&Active<'_>> = of_http.iter().filter(in_manager).copied().collect();
            if !patch_http_filters(filter, &in_manager) {
                return false;
            }
        }
    }
    true
}

fn patch_http_filters(manager: &mut Value, patches: &[&Active<'_>]) -> bool {
    let Some(manager) = manager.get_mut("typed_config").filter(|_| !patches.is_empty()) else { return true };
    let filters = fields_mut(manager).entry("http_filters").or_insert_with(|| Value::Array(Vec::new()));
    let filters = filters.as_array_mut().expect("http_filters is a list");
    for active in patches {
        place(active, filters);
    }
    filters.iter_mut().all(|filter| merge_filter(filter, patches))
}

/// Whether a filter is the one that a patch names; a patch without a name means all.
fn is_named(active: &Active<'_>, filter: &Value) -> bool {
    active.patch.filter_name().is_none_or(|name| filter["name"] == name)
}

/// Adds, replaces or removes a filter.
fn place(active: &Active<'_>, filters: &mut Vec<Value>) {
    let is_named_at_all = active.patch.filter_name().is_some();
    let found = filters.iter().position(|filter| is_named(active, filter));
    let found = if is_named_at_all { found } else { None };
    let value = || active.patch.value.clone();
    let count = filters.len();
    match (active.patch.operation, found) {
        (Operation::Add, _) => filters.push(value()),
        (Operation::InsertFirst, _) => filters.insert(0, value()),
        (Operation::InsertBefore, _) if !is_named_at_all => filters.insert(0, value()),
        (Operation::InsertAfter, _) if !is_named_at_all => filters.push(value()),
        (Operation::InsertBefore, Some(index)) => filters.insert(index, value()),
        (Operation::InsertAfter, Some(index)) => filters.insert(index + 1, value()),
        (Operation::Replace, Some(index)) => {
            filters[index] = value();
            active.changed(1);
        }
        (Operation::Remove, Some(_)) => filters.retain(|filter| !is_named(active, filter)),
        _ => {}
    }
    active.changed(count.abs_diff(filters.len()));
}

/// Merges all patches into a filter whose configuration is there. False if istiod's merge panics.
fn merge_filter(filter: &mut Value, patches: &[&Active<'_>]) -> bool {
    for active in patches.iter().filter(|active| active.is(Operation::Merge)) {
        if !is_named(active, filter) {
            continue;
        }
        let Some(config) = filter.get_mut("typed_config") else {
            let reason = format!("{} has no typed_config: config_discovery brings it later", filter["name"]);
            active.drop_because(reason);
            continue;
        };
        let patch = &active.patch.value;
        let merged = patch.get("typed_config").map_or(Ok(()), |patch| merge_any(config, patch));
        if let Err(reason) = merged {
            return give_up(active, &reason);
        }
        // A name renames it, and what follows has to match the new name.
        if let Some(name) = patch["name"].as_str().filter(|name| !name.is_empty()) {
            filter["name"] = name.into();
        }
        active.changed(1);
    }
    true
}
