//! A part of the store is away: services that can serve the rest stay in use, as Envoy's own checks of `/readyz` see them.

use berth_harness::{RedisServer, State, World, eventually};
use hyper::Method;

use crate::support::state_away::five;
use crate::support::{SOON, placing};

/// Lets everybody use the keys of the first so many of the 16 shards only.
fn allow(redis: &RedisServer, shards: usize) {
    let mut rule = ["ACL", "SETUSER", "default", "resetkeys"].map(str::to_owned).to_vec();
    rule.extend((0..shards).map(|shard| format!("~berth:{{*/{shard:x}}}:*")));
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    assert_eq!(redis.cli(&rule).trim(), "OK");
}

/// Whether Envoy would call each of the services.
async fn healthy(world: &World) -> Vec<bool> {
    let hosts = world.envoy(0).clusters().await;
    hosts.iter().filter(|host| host.cluster == "berth_state").map(|host| host.is_healthy()).collect()
}

/// Waits until each service knows that so many shards are away.
async fn known(world: &World, away: f64) {
    let says = async || {
        for service in world.states() {
            if service.metric("berth_state_shards_away", &[]).await != away {
                return false;
            }
        }
        true
    };
    eventually(says, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_stay_in_use_as_long_as_one_shard_takes_writes() {
    let world = placing(five().state(State::redis().services(2))).await;
    let redis = world.redis();
    eventually(async || healthy(&world).await == [true, true], SOON).await;
    for there in [15, 8, 1] {
        allow(redis, there);
        known(&world, f64::from(16 - u32::try_from(there).unwrap())).await;

        // Each service has passed checks since.
        let checks = async |result: &str| {
            world.envoy(0).stat(&format!("cluster.berth_state.health_check.{result}")).await
        };
        let (passed, failed) = (checks("success").await, checks("failure").await);
        eventually(async || checks("success").await >= passed + 8, SOON).await;
        assert_eq!(checks("failure").await, failed, "{there} of 16 shards take writes");
        assert_eq!(healthy(&world).await, [true, true], "{there} of 16 shards take writes");
        let page = world.state(0).request(Method::GET, "/readyz?require=all").send().await;
        assert_eq!(page.status, 503, "{page:?}");
        allow(redis, 16);
        known(&world, 0.0).await;
    }

    allow(redis, 0);
    eventually(async || healthy(&world).await == [false, false], SOON).await;
    allow(redis, 16);
    eventually(async || healthy(&world).await == [true, true], SOON).await;

    redis.kill();
    eventually(async || healthy(&world).await == [false, false], SOON).await;
    redis.restart();
    eventually(async || healthy(&world).await == [true, true], SOON).await;
}
