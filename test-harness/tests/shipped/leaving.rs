//! The hooks of docs/kubernetes.md, run as the kubelet would: in a container that holds one static program and the volume into
//! which an init container of our image installed `berth`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use berth_harness::{Image, State, World, eventually, free_address, root};
use serde_json::Value;
use tempfile::TempDir;

use super::images;
use crate::support::{SOON, placing};

/// The Deployment that the page shows.
fn deployment() -> Value {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let block = page.split("```yaml run\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    serde_yaml_ng::from_str(block).unwrap()
}

fn words(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_drain_a_pod_that_holds_nothing_but_its_program() {
    let pod = deployment()["spec"]["template"]["spec"].take();
    let (init, program) = (&pod["initContainers"][0], &pod["containers"][0]);
    let state = State::redis().token("s3cret");
    let builder = World::builder().nodes(2).state(state);
    let world = placing(builder.configuration(|json| json["state"]["token"] = "s3cret".into())).await;
    let (node, service) = (world.node(0), world.state(0));
    let out = TempDir::new().unwrap();
    let tag = images::tag() + "-hooks";
    let (_loaded, archives) = images::archives(&out, &tag, &["berth", "berth-node"]);
    let [berth, app] = [0, 1].map(|index| Image::load(&archives[index]).unwrap());

    // The volumes: an emptyDir that any user may write to, and the token.
    let [volume, token] = [(); 2].map(|()| TempDir::new().unwrap());
    for (folder, mode) in [(&volume, 0o777), (&token, 0o755)] {
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::write(token.path().join("token"), "s3cret\n").unwrap();
    let place = |name: &str| {
        let mounts = program["volumeMounts"].as_array().unwrap();
        mounts.iter().find(|mount| mount["name"] == name).unwrap()["mountPath"].as_str().unwrap()
    };
    let mounts = [(volume.path(), place("berth")), (token.path(), place("berth-token"))];

    let mut installs = berth.container(&mounts[..1], &[], &words(&init["args"])).unwrap();
    assert_eq!(succeeds(installs.command()), "installed /berth/berth\n");

    // The pod is the world's first node, as Envoy knows it.
    let (ip, port) = node.name().rsplit_once(':').unwrap();
    let variables = program["env"].as_array().unwrap().iter().map(|variable| {
        let name = variable["name"].as_str().unwrap();
        let value = match name {
            "POD_IP" => ip.to_owned(),
            "PORT" => port.to_owned(),
            "BERTH_SERVER" => format!("http://{}", service.address()),
            "BERTH_POOL" => "nodes".to_owned(),
            _ => variable["value"].as_str().unwrap().to_owned(),
        };
        (name, value)
    });
    let variables: Vec<_> = variables.collect();
    let address = free_address();
    let mut pod = app.container(&mounts, &variables, &[&address.to_string()]).unwrap();
    pod.start().unwrap();
    eventually(async || std::net::TcpStream::connect(address).is_ok(), SOON).await;

    let joined = succeeds(&mut pod.exec(&words(&program["lifecycle"]["postStart"]["exec"]["command"])));
    assert_eq!(joined, format!("{} is active in pool nodes\n", node.name()));
    let visit = async |session: &str| {
        let response = world.get("/").header("x-session-id", session).send().await;
        response.node().to_owned()
    };
    let mut here = Vec::new();
    for session in (0..20).map(|index| format!("s{index}")) {
        if visit(&session).await == node.name() {
            here.push(session);
        }
    }
    assert!(!here.is_empty());

    let mut hook = pod.exec(&words(&program["lifecycle"]["preStop"]["exec"]["command"]));
    let mut leaving = hook.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    // Its sessions stay with it, and new ones go to the other node.
    eventually(async || service.operate(&["nodes"]).await.unwrap().contains("draining"), SOON).await;
    let mut fresh = 0;
    let elsewhere = async || {
        fresh += 1;
        let batch: Vec<String> = (0..10).map(|index| format!("n{fresh}-{index}")).collect();
        let mut all = true;
        for session in &batch {
            let is_here = visit(session).await == node.name();
            all &= !is_here;
            if is_here {
                service.end_session("nodes", session).await;
            }
        }
        all
    };
    eventually(elsewhere, SOON).await;
    for session in &here {
        assert_eq!(visit(session).await, node.name());
        service.end_session("nodes", session).await;
    }
    // What the world's start looked with.
    service.end_session("nodes", "probe").await;
    eventually(async || leaving.try_wait().unwrap().is_some(), SOON).await;
    let output = leaving.wait_with_output().unwrap();
    let says = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert!(says.starts_with(&format!("{} is draining in pool nodes\n", node.name())), "{says}");
    assert!(says.contains("no sessions left"), "{says}");

    // The next container at this address begins as any other.
    succeeds(&mut pod.exec(&words(&program["lifecycle"]["postStart"]["exec"]["command"])));
    assert!(!service.operate(&["nodes"]).await.unwrap().contains("draining"));
}
