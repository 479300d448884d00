//! Patches of listeners (`listener_patch.go`), and filters that listeners ask for.

use serde_json::Value;

use super::active::Active;
use super::filter::{ApplyTo, CONNECTION_MANAGER, Context, ListenerMatch, Operation};
use super::{Resources, filter_chains, routes};

pub(super) fn patch(listeners: &mut Vec<Value>, patches: &[Active<'_>], contexts: &[Context]) {
    let mut added = Vec::new();
    for &context in contexts {
        let own = |listener: &&mut Value| context_of(listener, contexts) == context;
        for listener in listeners.iter_mut().filter(own) {
            patch_inline_routes(listener, patches, context);
            if !patch_listener(listener, patches, context) {
                // istiod has given up on the rest, and does not add any.
                break;
            }
        }
        for active in patches.iter().filter(|active| active.is_for(ApplyTo::Listener, context)) {
            let is_wanted = context != Context::SidecarInbound || active.patch.context != Context::Any;
            if active.is(Operation::Add) && is_wanted {
                added.push(active.patch.value.clone());
                active.changed(1);
            }
        }
    }
    listeners.retain(|listener| !listener.is_null());
    listeners.append(&mut added);
}

fn context_of(listener: &Value, contexts: &[Context]) -> Context {
    let is_inbound = listener["traffic_direction"] == "INBOUND";
    if is_inbound { contexts[contexts.len() - 1] } else { contexts[0] }
}

/// istiod patches a route configuration before it puts it into a listener.
fn patch_inline_routes(listener: &mut Value, patches: &[Active<'_>], context: Context) {
    for chain in filter_chains::all(listener) {
        for filter in filter_chains::list(chain, "filters") {
            if let Some(routes) = filter.pointer_mut("/typed_config/route_config") {
                routes::patch(routes, patches, context);
            }
        }
    }
}

/// Whether istiod goes on after it.
fn patch_listener(listener: &mut Value, patches: &[Active<'_>], context: Context) -> bool {
    for active in patches.iter().filter(|active| active.is_for(ApplyTo::Listener, context)) {
        if !matches(active, listener) {
            continue;
        }
        if active.is(Operation::Remove) {
            *listener = Value::Null;
            active.changed(1);
            return true;
        }
        if active.patch.merges() {
            active.merge_into(listener);
        }
    }
    filter_chains::patch(listener, patches, context)
}

/// Whether a listener is the one that a patch names. Inside the virtual listeners a port is the one of a filter chain.
pub(super) fn matches(active: &Active<'_>, listener: &Value) -> bool {
    let Some(wanted) = &active.patch.listener else { return true };
    let ListenerMatch { name, port_number, .. } = wanted;
    if !name.is_empty() && listener["name"] != name.as_str() {
        return false;
    }
    let port = listener.pointer("/address/socket_address/port_value");
    *port_number == 0
        || port.is_some_and(|port| port == *port_number)
        || (active.patch.apply_to != ApplyTo::Listener && is_virtual(listener))
}

pub(super) fn is_virtual(listener: &Value) -> bool {
    listener["name"] == "virtualInbound" || listener["name"] == "virtualOutbound"
}

/// Adds the extensions that a filter asks for by its name (`extension_configuration_patch.go`); their context counts for nothing.
pub(super) fn add_extensions(resources: &mut Resources, patches: &[Active<'_>]) {
    let wanted = discovered(&mut resources.listeners);
    for active in patches.iter().filter(|active| active.is_of(ApplyTo::ExtensionConfig)) {
        let value = &active.patch.value;
        if wanted.iter().any(|name| value["name"] == name.as_str()) {
            resources.extensions.push(value.clone());
            active.changed(1);
        } else {
            active.drop_because(format!("no filter asks for {} by config_discovery", value["name"]));
        }
    }
}

/// The names of all filters that come by ECDS.
fn discovered(listeners: &mut [Value]) -> Vec<String> {
    let mut names = Vec::new();
    let mut note = |filter: &Value| {
        if filter.get("config_discovery").is_some() {
            names.extend(filter["name"].as_str().map(str::to_owned));
        }
    };
    for chain in listeners.iter_mut().flat_map(filter_chains::all) {
        for filter in filter_chains::list(chain, "filters") {
            note(filter);
            if filter["name"] == CONNECTION_MANAGER {
                filter_chains::http_filters(filter).iter().for_each(&mut note);
            }
        }
    }
    names
}
