//! Requests to one Envoy that are weighed, beside those to others in turn.

use std::rc::Rc;
use std::time::Duration;

use berth_harness::{Builder, Request, World, eventually};
use serde_json::{Value, json};

/// Where sessions are named by a header, this one.
pub(crate) const HEADER: &str = "x-session-id";
pub(crate) const NODES: usize = 3;

pub(crate) struct Arm {
    pub(crate) world: Rc<World>,
    /// CPU µs per request, a round each.
    pub(crate) costs: Vec<f64>,
}

impl Arm {
    pub(crate) fn of(world: &Rc<World>) -> Self {
        Self { world: Rc::clone(world), costs: Vec::new() }
    }

    /// Serves until the filter has its snapshot, and its code is compiled for good.
    pub(crate) async fn warm_up(&self, requests: &[Request]) {
        ready(&requests[0]).await;
        self.world.client().send_all(requests.to_vec()).await;
    }

    /// Serves these, and notes what one of them took.
    ///
    /// # Panics
    /// If one of them is not answered with 200.
    pub(crate) async fn round(&mut self, requests: Vec<Request>) {
        let count = requests.len();
        let before = self.world.envoy(0).cpu_time();
        let answers = self.world.client().send_all(requests).await;
        let spent = self.world.envoy(0).cpu_time() - before;
        let refused = answers.iter().find(|answer| answer.status != 200);
        assert!(refused.is_none(), "a refusal is no measure: {refused:?}");
        self.costs.push(spent.as_secs_f64() * 1e6 / count as f64);
    }
}

/// One worker, so that all requests meet the same caches.
pub(crate) async fn start(builder: Builder) -> Rc<World> {
    Rc::new(builder.nodes(NODES).concurrency(1).start().await)
}

/// Until the node of a session is known.
pub(crate) async fn ready(request: &Request) {
    let placed = async || request.clone().send().await.status == 200;
    eventually(placed, Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// The debug header is opt-in; a benchmark does not opt in.
pub(crate) fn quiet(builder: Builder) -> Builder {
    builder.configuration(|json| json["debug_header"] = false.into())
}

/// Without the filter: everything goes to cluster `nodes`, by a policy of Envoy's own on the header.
pub(crate) fn native(policy: &'static str) -> Builder {
    World::builder().filter(false).bootstrap(move |json| hash(json, policy))
}

fn hash(json: &mut Value, policy: &str) {
    for cluster in json["static_resources"]["clusters"].as_array_mut().into_iter().flatten() {
        if cluster["name"] == "nodes" {
            let package = policy.split('.').next().unwrap_or_default();
            cluster["load_balancing_policy"] = json!({"policies": [{"typed_extension_config": {
                "name": format!("envoy.load_balancing_policies.{package}"),
                "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{policy}")},
            }}]});
        }
    }
    let routes = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    if let Some(routes) = json.pointer_mut(routes).and_then(Value::as_array_mut) {
        routes.truncate(1);
        if let Some(matches) = routes.first_mut().and_then(|route| route["match"].as_object_mut()) {
            matches.remove("headers");
        }
    }
}
