//! A trap of the filter's VM ends one request, because the patches add FAIL_RELOAD.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_harness::{eventually, root};
use serde_json::{Value, json};

use crate::support::pinning::of;
use crate::support::{SOON, places, shown};
use crate::trapping::{HEADERS, trapping};
use crate::worlds::{V1_6, V1_10, Version};

const CODE: &str = "/static_resources/listeners/0/default_filter_chain/filters/0/typed_config/http_filters/0/\
                    typed_config/config/vm_config/code/local";

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_served_again_after_a_trap_with_1_6() {
    requests_are_served_again_after_a_trap(V1_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_served_again_after_a_trap_with_1_10() {
    requests_are_served_again_after_a_trap(V1_10).await;
}

async fn requests_are_served_again_after_a_trap(version: Version) {
    let mut bootstrap = version.bootstrap();
    let module = std::env::var_os("BERTH_WASM").unwrap_or_else(|| "target/berth.wasm".into());
    let module = std::fs::read(root().join(module)).unwrap();
    let code: &mut Value = bootstrap.pointer_mut(CODE).unwrap();
    *code = json!({"inline_bytes": STANDARD.encode(trapping(&module))});
    // One worker, so that its VM is the one that serves the next request too.
    let world = version.ring_only(bootstrap).concurrency(1).start().await;
    let envoy = world.envoy(0);
    places(envoy).await;
    let before = of(&world.client(), "ada").send().await;

    let mut many = of(&world.client(), "ada");
    for index in 0..=HEADERS {
        many = many.header(&format!("x-many-{index}"), "1");
    }
    assert_eq!(many.send().await.status, 503, "the VM traps");
    assert!(envoy.wasm_failures().await > 0, "{}", envoy.log());

    // Envoy waits about a second before it makes another VM.
    let is_served = async || {
        let answer = of(&world.client(), "ada").send().await;
        let placed = answer.status == 200 && shown(&answer, "reason") != "no_snapshot";
        if placed { Ok(answer) } else { Err(format!("{answer:?}")) }
    };
    let after = eventually(is_served, SOON).await;
    assert_eq!(after.node(), before.node());
    assert_eq!(shown(&after, "outcome"), shown(&before, "outcome"));
    assert_eq!(envoy.stat("wasm.berth.vm_reload_success").await, 1);
}
