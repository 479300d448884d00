//! What the Helm chart renders, run without a cluster: the service takes its command line, environment and files, and answers the
//! probes; alerts name metrics that exist. `scripts/check-chart` looks at the documents as such.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use berth_core::event::{self, Counter};
use berth_harness::tokens::key_set;
use berth_harness::{Image, RedisServer, eventually, free_address, root};
use jsonwebtoken::Algorithm;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

use super::images;
use crate::support::SOON;

/// The documents of each set of values in charts/berth/ci.
fn rendered() -> BTreeMap<String, Vec<Value>> {
    let libraries = root().join("target/chart");
    assert!(libraries.is_dir(), "{} is missing: run scripts/setup", libraries.display());
    let mut command = Command::new("python3");
    command.arg(root().join("test-harness/chart/render.py"));
    command.env("PYTHONPATH", libraries).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn document<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn container(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]["containers"][0]
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The files that Secrets and ConfigMaps would hold, in a folder that is mounted at /etc/berth.
fn files() -> TempDir {
    let folder = TempDir::with_prefix("berth-chart-").unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["berth".to_owned()]).unwrap().signed_by(&key, &authority);
    for name in ["tls", "redis-cert"] {
        write(&format!("{name}/tls.crt"), &certificate.as_ref().unwrap().pem());
        write(&format!("{name}/tls.key"), &key.serialize_pem());
    }
    for name in ["redis-ca", "client-ca"] {
        write(&format!("{name}/ca.crt"), &authority.pem());
    }
    write("jwks/jwks.json", &key_set(&[("k", Algorithm::RS256), ("e", Algorithm::ES256)]));
    folder
}

/// Whether the program answers a probe as the kubelet would ask it.
fn passes(probe: &Value, address: SocketAddr) -> bool {
    let Some(get) = probe.get("httpGet") else {
        return probe["tcpSocket"]["port"] == "http" && TcpStream::connect(address).is_ok();
    };
    assert_eq!(get["port"], "http");
    let scheme = get["scheme"].as_str().unwrap().to_lowercase();
    let url = format!("{scheme}://{address}{}", get["path"].as_str().unwrap());
    let curl = Command::new("curl").args(["-ksf", "--max-time", "2", "-o", "/dev/null", &url]).status();
    curl.unwrap().success()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rendered_command_serves_and_answers_the_rendered_probes() {
    let out = TempDir::new().unwrap();
    let (_loaded, archives) = images::archives(&out, &(images::tag() + "-chart"), &["berth"]);
    let image = Image::load(&archives[0]).unwrap();
    let redis = RedisServer::start(&[]);
    let sets = rendered();
    assert!(sets.len() >= 5, "{:?}", sets.keys());

    for (name, documents) in sets {
        let deployment = document(&documents, "Deployment");
        let pod = &deployment["spec"]["template"]["spec"];
        let container = container(deployment);
        // The trial's own Valkey, with its rendered flags; the harness chooses the port.
        let valkey = (name == "valkey").then(|| {
            let flags = words(&self::container(document(&documents, "StatefulSet"))["args"]);
            assert_eq!(flags[..2], ["--port", "6379"]);
            RedisServer::start(&flags[2..].iter().map(String::as_str).collect::<Vec<_>>())
        });
        let store = valkey.as_ref().unwrap_or(&redis).url();
        let address = free_address();
        let mut arguments = words(&container["args"]);
        assert!(arguments[1].starts_with("--listen=") && arguments[1].ends_with(":8650"), "{}", arguments[1]);
        assert_eq!(container["ports"][0]["containerPort"], 8650);
        arguments[1] = format!("--listen={address}");
        for argument in &mut arguments {
            if argument.starts_with("--redis=") {
                *argument = format!("--redis={store}");
            }
        }
        let variables = container["env"].as_array().into_iter().flatten().map(|variable| {
            let value = match variable["name"].as_str().unwrap() {
                // Only that the flags are taken: no cluster with TLS is there, and the probes look at the port.
                "BERTH_REDIS" if name == "everything" => "rediss://127.0.0.1:1".to_owned(),
                "BERTH_REDIS" => store.clone(),
                _ => "s3cret".to_owned(),
            };
            (variable["name"].as_str().unwrap(), value)
        });
        let variables: Vec<_> = variables.collect();
        let files = files();
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let inside = mount["mountPath"].as_str().unwrap().strip_prefix("/etc/berth/").unwrap();
            assert!(files.path().join(inside).is_dir(), "{inside}");
        }

        let security = &pod["securityContext"];
        let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
        assert_eq!(image.config().unwrap()["User"], user, "the image's own, which the harness keeps");
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut running = image.container(&[(files.path(), "/etc/berth")], &variables, &words).unwrap();
        running.start().unwrap();

        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            eventually(async || passes(&container[probe], address), SOON).await;
        }
        if name == "access" {
            let call = |token: &str| {
                let mut curl = Command::new("curl");
                curl.args([
                    "-s",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "-H",
                    &format!("authorization: Bearer {token}"),
                ]);
                curl.args(["-d", "{}", &format!("http://{address}/v1/resolve")]);
                String::from_utf8(curl.output().unwrap().stdout).unwrap()
            };
            assert_eq!((call("s3cret"), call("wrong")), ("400".to_owned(), "401".to_owned()));
        }
        if let Some(monitor) = documents.iter().find(|document| document["kind"] == "ServiceMonitor")
            && name == "tls"
        {
            let endpoint = &monitor["spec"]["endpoints"][0];
            let [scheme, path] = ["scheme", "path"].map(|field| endpoint[field].as_str().unwrap());
            let url = format!("{scheme}://{address}{path}");
            // Requests are counted, and shown, from the first one on.
            let call = format!("{scheme}://{address}/v1/resolve");
            Command::new("curl").args(["-ks", "-o", "/dev/null", "-d", "{}", &call]).status().unwrap();
            let page = Command::new("curl").args(["-ksf", &url]).output().unwrap();
            let page = String::from_utf8(page.stdout).unwrap();
            alerts_name_metrics_of(&page, document(&documents, "PrometheusRule"));
        }
    }
}

/// The metrics that a service's page shows, and those that the filter's names say, with their labels.
fn alerts_name_metrics_of(page: &str, rules: &Value) {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("# TYPE ")) {
        known.entry(line.split(' ').nth(2).unwrap().to_owned()).or_default();
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once(['{', ' ']).unwrap();
        let labels = labels.split(',').filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
        known.entry(name.to_owned()).or_default().extend(labels);
    }
    let counters = Counter::ALL.iter().map(|counter| counter.stat("p"));
    let gauges = [event::panic_gauge("p"), event::membership_age_gauge("p"), event::breaker_gauge("p")];
    for name in counters.chain(gauges).chain([event::jwks_stat("p", true)]) {
        let mut parts = name.split('.');
        let labels = known.entry(parts.next().unwrap().to_owned()).or_default();
        labels.extend(parts.step_by(2).map(str::to_owned));
    }
    let mut named = 0;
    for group in rules["spec"]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            let expression = rule["expr"].as_str().unwrap();
            named += 1;
            if let Some((_, rest)) = expression.split_once("{__name__=~\"") {
                // As Prometheus takes it: it has to match all of the name.
                let pattern = format!("^(?:{})$", rest.split('"').next().unwrap());
                let matches = |name: &str| Regex::new(&pattern).unwrap().is_match(name);
                assert!(
                    reloads().iter().all(|name| matches(name)),
                    "{expression} misses one of {:?}",
                    reloads()
                );
                assert!(!matches("envoy_wasm_another_vm_reload_success"), "{expression}");
                continue;
            }
            let (name, selector) = metric(expression);
            let labels = known.get(name).unwrap_or_else(|| panic!("there is no metric {name}: {expression}"));
            for label in selector {
                let of_target = ["namespace", "service"].contains(&label);
                assert!(of_target || labels.contains(label), "{name} has no label {label}");
            }
        }
    }
    assert!(named >= 15, "{named} alerts");
}

/// Envoy's counter of VMs that were replaced, which has the name of the plugin's configuration in it: as envoy.yaml and Istio's EnvoyFilter
/// have it, and as Istio calls that of a WasmPlugin or a TrafficExtension.
fn reloads() -> [String; 4] {
    let yaml = |file: &str| -> Value {
        serde_yaml_ng::from_str(&fs::read_to_string(root().join(file)).unwrap()).unwrap()
    };
    let text = |value: &Value, path: &str| value.pointer(path).unwrap().as_str().unwrap().to_owned();
    let envoy = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/name";
    let filter = "/spec/configPatches/0/patch/value/typed_config/config/name";
    let extension = |file: &str| {
        let document = yaml(file);
        [text(&document, "/metadata/namespace"), text(&document, "/metadata/name")].join(".")
    };
    [
        text(&yaml("envoy/envoy.yaml"), envoy),
        text(&yaml("envoy/istio/base/plugin.yaml"), filter),
        extension("envoy/istio/extension/wasmplugin.yaml"),
        extension("envoy/istio/extension/trafficextension.yaml"),
    ]
    .map(|name| format!("envoy_wasm_{}_vm_reload_success", name.replace(['.', '-'], "_")))
}

/// The metric of an expression, and the labels that it selects and sums by.
fn metric(expression: &str) -> (&str, Vec<&str>) {
    let word = |text: &str| text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let at =
        ["berth_", "envoy_"].iter().filter_map(|prefix| expression.find(prefix)).min().expect("a metric");
    let end = at + word(&expression[at..]);
    let selector =
        expression[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
    let selected = selector.split(',').filter_map(|matcher| Some(&matcher[..matcher.find(['=', '!'])?]));
    let by = expression.split_once("by (").and_then(|(_, rest)| rest.split(')').next()).unwrap_or_default();
    (
        &expression[at..end],
        selected.chain(by.split(", ").filter(|label| !label.is_empty() && *label != "le")).collect(),
    )
}
