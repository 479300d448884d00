//! Patches of route configurations, virtual hosts and routes (`rc_patch.go`).

use serde_json::Value;

use super::active::Active;
use super::filter::{Action, ApplyTo, Context, Operation, RouteConfigurationMatch, VirtualHostMatch};
use super::messages::fields_mut;

pub(super) fn patch(configuration: &mut Value, patches: &[Active<'_>], context: Context) {
    let whole = configuration.clone();
    let own = |apply_to: ApplyTo| {
        let is_own = move |active: &&Active<'_>| active.is_for(apply_to, context);
        patches.iter().filter(is_own).filter(|active| matches(active, &whole, context)).collect::<Vec<_>>()
    };
    let (of_hosts, of_routes) = (own(ApplyTo::VirtualHost), own(ApplyTo::HttpRoute));
    for active in own(ApplyTo::RouteConfiguration) {
        active.merge_into(configuration);
    }
    if of_hosts.is_empty() && of_routes.is_empty() {
        return;
    }
    let hosts = fields_mut(configuration).entry("virtual_hosts").or_insert_with(|| Value::Array(Vec::new()));
    patch_hosts(hosts.as_array_mut().expect("virtual_hosts is a list"), &of_hosts, &of_routes);
}

fn patch_hosts(hosts: &mut Vec<Value>, patches: &[&Active<'_>], of_routes: &[&Active<'_>]) {
    let mut removed = Vec::new();
    for host in hosts.iter_mut() {
        if patch_host(host, patches) {
            patch_routes(host, of_routes);
        } else {
            removed.push(host["name"].clone());
        }
    }
    for active in patches.iter().filter(|active| active.is(Operation::Add)) {
        // A match for a virtual host counts for nothing here.
        hosts.push(active.patch.value.clone());
        active.changed(1);
    }
    // By name: what was added under a removed name goes too.
    hosts.retain(|host| !removed.contains(&host["name"]));
}

/// Whether the virtual host stays.
fn patch_host(host: &mut Value, patches: &[&Active<'_>]) -> bool {
    for active in patches.iter().filter(|active| !active.is(Operation::Add)) {
        if !matches_host(active, host) {
            continue;
        }
        match active.patch.operation {
            Operation::Remove => {
                active.changed(1);
                return false;
            }
            Operation::Replace => {
                *host = active.patch.value.clone();
                active.changed(1);
            }
            _ => active.merge_into(host),
        }
    }
    true
}

fn patch_routes(host: &mut Value, patches: &[&Active<'_>]) {
    let own: Vec<&Active<'_>> = patches.iter().copied().filter(|active| matches_host(active, host)).collect();
    if own.is_empty() {
        return;
    }
    let routes = fields_mut(host).entry("routes").or_insert_with(|| Value::Array(Vec::new()));
    let routes = routes.as_array_mut().expect("routes is a list");
    for route in routes.iter_mut() {
        patch_route(route, &own);
    }
    for active in own {
        place(active, routes);
    }
    // Removed ones keep their place until here.
    routes.retain(|route| !route.is_null());
}

fn patch_route(route: &mut Value, patches: &[&Active<'_>]) {
    for active in patches {
        if !matches_route(active, route) {
            continue;
        }
        if active.is(Operation::Remove) {
            *route = Value::Null;
            active.changed(1);
            return;
        }
        if active.patch.merges() {
            active.merge_into(route);
        }
    }
}

/// Adds a route.
fn place(active: &Active<'_>, routes: &mut Vec<Value>) {
    let names_route = wanted_host(active).is_some_and(|host| host.route.is_some());
    let found = routes.iter().position(|route| matches_route(active, route));
    let index = match active.patch.operation {
        Operation::Add => routes.len(),
        Operation::InsertAfter if !names_route => routes.len(),
        Operation::InsertBefore | Operation::InsertFirst if !names_route => 0,
        _ => match (active.patch.operation, found) {
            (Operation::InsertBefore, Some(index)) => index,
            (Operation::InsertAfter, Some(index)) => index + 1,
            // At the very top, wherever the named route is.
            (Operation::InsertFirst, Some(_)) => 0,
            _ => return,
        },
    };
    routes.insert(index, active.patch.value.clone());
    active.changed(1);
}

fn matches(active: &Active<'_>, configuration: &Value, context: Context) -> bool {
    let Some(wanted) = &active.patch.routes else { return true };
    let RouteConfigurationMatch { name, port_number, port_name, gateway, .. } = wanted;
    let own = configuration["name"].as_str().unwrap_or_default();
    if !name.is_empty() && name != own {
        return false;
    }
    if context != Context::Gateway {
        // The other two are for gateways.
        return *port_number == 0 || Some(*port_number) == port_of_sidecar(own);
    }
    // http.PORT or https.PORT.PORT NAME.GATEWAY.NAMESPACE: only the second has a name to match.
    let parts: Vec<&str> = own.split('.').collect();
    let (own_port, own_name, own_gateway) = match parts[..] {
        ["http", port] => (port, "", String::new()),
        ["https", port, port_name, gateway, namespace] => (port, port_name, format!("{namespace}/{gateway}")),
        _ => ("", "", String::new()),
    };
    (port_name.is_empty() || port_name == own_name)
        && (gateway.is_empty() || *gateway == own_gateway)
        && (*port_number == 0 || ports_of_gateway(configuration, own_port).contains(port_number))
}

/// `8080`, or `inbound|8080||`.
fn port_of_sidecar(name: &str) -> Option<u32> {
    let port = match name.strip_prefix("inbound|") {
        Some(rest) => rest.split('|').next().unwrap_or_default(),
        None => name,
    };
    port.parse().ok()
}

/// The ports of the Gateway's servers, which end the names of virtual hosts; without those, the listener's port.
fn ports_of_gateway(configuration: &Value, own: &str) -> Vec<u32> {
    let hosts = configuration["virtual_hosts"].as_array().into_iter().flatten();
    let server_port = |host: &Value| host["name"].as_str()?.rsplit_once(':')?.1.parse().ok();
    let ports: Vec<u32> = hosts.filter_map(server_port).collect();
    if ports.is_empty() { own.parse().into_iter().collect() } else { ports }
}

fn wanted_host<'f>(active: &Active<'f>) -> Option<&'f VirtualHostMatch> {
    active.patch.routes.as_ref()?.vhost.as_ref()
}

fn matches_host(active: &Active<'_>, host: &Value) -> bool {
    let Some(VirtualHostMatch { name, domain_name, .. }) = wanted_host(active) else { return true };
    let mut domains = host["domains"].as_array().into_iter().flatten();
    (name.is_empty() || host["name"] == name.as_str())
        && (domain_name.is_empty() || domains.any(|domain| domain == domain_name.as_str()))
}

fn matches_route(active: &Active<'_>, route: &Value) -> bool {
    let Some(wanted) = wanted_host(active).and_then(|host| host.route.as_ref()) else { return true };
    if route.is_null() || (!wanted.name.is_empty() && route["name"] != wanted.name.as_str()) {
        return false;
    }
    let own = ["route", "redirect", "direct_response"].map(|action| route.get(action).is_some());
    match (wanted.action, own) {
        (Action::Any, _) | (_, [false, false, false]) => true,
        (Action::Route, own) => own[0],
        (Action::Redirect, own) => own[1],
        (Action::DirectResponse, own) => own[2],
    }
}
