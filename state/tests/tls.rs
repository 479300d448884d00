//! TLS on both sides: the listener with and without client certificates, and Redis over `rediss://` with an ACL user.
#[path = "support/http.rs"]
mod http;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_core::wire::SessionKey;
use berth_state::store::Keeping;
use berth_state::store::redis::{Options, Tls};
use jsonwebtoken::Algorithm;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;
use tempfile::TempDir;

use http::Service;
use support::process::Server;
use support::{RedisServer, eventually, free_ports};

/// An authority, and certificates that it signed.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.distinguished_name.push(DnType::CommonName, "authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        for name in ["server", "client"] {
            let key = KeyPair::generate().unwrap();
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
            std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// `berth serve` with a certificate, which asks its clients for theirs.
struct Running {
    serve: Child,
    port: u16,
}

impl Running {
    fn start(files: &Certificates, arguments: &[&str]) -> Self {
        let port = free_ports(1)[0];
        let serve = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--tls-cert", &files.text("server.pem"), "--tls-key", &files.text("server.key")])
            .args(["--tls-client-ca", &files.text("ca.pem")])
            .args(arguments)
            .stderr(Stdio::null())
            .spawn();
        Self { serve: serve.unwrap(), port }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

/// curl's exit code for `/healthz`.
fn curl(port: u16, arguments: &[&str]) -> i32 {
    let url = format!("https://localhost:{port}/healthz");
    let status =
        Command::new("curl").args(["-sf", "-m", "5", "-o", "/dev/null", &url]).args(arguments).status();
    status.unwrap().code().unwrap()
}

#[test]
fn the_listener_serves_tls_and_asks_for_client_certificates() {
    let files = Certificates::new();
    let serve = Running::start(&files, &[]);
    let port = serve.port;
    let (ca, cert, key) = (files.text("ca.pem"), files.text("client.pem"), files.text("client.key"));

    eventually("TLS", || curl(port, &["--cacert", &ca, "--cert", &cert, "--key", &key]) == 0);
    assert_eq!(curl(port, &["--cacert", &ca, "--cert", &cert, "--key", &key, "--http2"]), 0);
    assert_ne!(curl(port, &["--cacert", &ca]), 0, "a client without certificate was let in");
}

#[test]
fn files_that_are_not_there_are_all_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["serve", "--listen", "127.0.0.1:0", "--tls-cert", "/no-cert.pem", "--tls-key", "/no.key"])
        .args(["--redis", "rediss://a", "--redis-ca", "/no-ca.pem"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for says in
        ["3 faults", "redis-ca: cannot read /no-ca.pem", "tls-cert: cannot read /no-cert.pem", "/no.key"]
    {
        assert!(message.contains(says), "{says} is not in\n{message}");
    }
}

/// The exit code of `berth nodes`, and what it complains of.
fn nodes(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["nodes", "--server", url])
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_operators_commands_speak_tls_and_say_what_is_amiss() {
    let files = Certificates::new();
    let others = Certificates::new();
    let serve = Running::start(&files, &["--token", "t0p"]);
    let port = serve.port;
    let (ca, cert, key) = (files.text("ca.pem"), files.text("client.pem"), files.text("client.key"));
    let url = format!("https://localhost:{port}");
    let all = ["--token", "t0p", "--ca", &ca, "--client-cert", &cert, "--client-key", &key];

    eventually("TLS", || nodes(&url, &all, &[]).0 == 0);
    assert_eq!(nodes(&format!("https://127.0.0.1:{port}/"), &all, &[]), (0, String::new()));
    let variables = [
        ("BERTH_TOKEN", "t0p"),
        ("BERTH_CA", ca.as_str()),
        ("BERTH_CLIENT_CERT", cert.as_str()),
        ("BERTH_CLIENT_KEY", key.as_str()),
    ];
    assert_eq!(nodes(&url, &[], &variables), (0, String::new()));

    let (wrong_ca, wrong_cert, wrong_key) =
        (others.text("ca.pem"), others.text("client.pem"), others.text("client.key"));
    let plain = format!("http://localhost:{port}");
    let by_other_name = format!("https://ip6-localhost.test:{port}");
    for (url, arguments, code, says) in [
        (&url, &["--token", "t0p"][..], 3, "with --ca"),
        (&url, &["--ca", &wrong_ca], 3, "with --ca"),
        (&url, &["--ca", &ca], 3, "--client-cert"),
        (&url, &["--ca", &ca, "--client-cert", &wrong_cert, "--client-key", &wrong_key], 3, "cannot reach"),
        (&url, &["--ca", &ca, "--client-cert", &cert], 2, "a certificate needs both"),
        (&url, &["--ca", &ca, "--client-cert", &cert, "--client-key", &wrong_key], 2, "do not fit"),
        (&url, &["--ca", "/nowhere.pem"], 2, "--ca: cannot read /nowhere.pem"),
        (&url, &["--ca", &key], 2, "there is no certificate in it"),
        (&url, &["--ca", &ca, "--client-cert", &cert, "--client-key", &cert], 2, "--client-key: cannot read"),
        (&plain, &["--ca", &ca], 2, "--ca: is for https://"),
        (&plain, &[], 3, "does it serve https://?"),
        (&by_other_name, &all[..], 3, "cannot reach ip6-localhost.test"),
    ] {
        let (exit, message) = nodes(url, arguments, &[]);
        assert_eq!((exit, message.contains(says)), (code, true), "{url} {arguments:?}: {message}");
    }
    // All faults at once, those of variables by their names.
    let (exit, message) =
        nodes(&url, &["--format", "xml"], &[("BERTH_CA", "/no-ca"), ("BERTH_TOKEN", "a\nb")]);
    assert_eq!(exit, 2);
    for says in ["BERTH_CA: cannot read /no-ca", "BERTH_TOKEN: ", "--format: must be"] {
        assert!(message.contains(says), "{says} is not in\n{message}");
    }

    let service = Service::in_memory();
    let (exit, message) = nodes(&service.url().replace("http:", "https:"), &["--ca", &ca], &[]);
    assert_eq!((exit, message.contains("does it serve http://?")), (3, true), "{message}");
}

#[test]
fn with_a_set_of_keys_a_certificate_is_the_proxies_and_a_token_is_its_bearers() {
    let files = Certificates::new();
    let keys = files.text("jwks.json");
    std::fs::write(&keys, support::tokens::key_set(&[("e", Algorithm::ES256)])).unwrap();
    let serve = Running::start(&files, &["--jwks", &keys, "--jwt-algorithms", "ES256"]);
    let url = format!("https://localhost:{}", serve.port);
    let (ca, cert, key) = (files.text("ca.pem"), files.text("client.pem"), files.text("client.key"));
    eventually("TLS", || curl(serve.port, &["--cacert", &ca, "--cert", &cert, "--key", &key]) == 0);
    let ask = |method: &str, path: &str, body: &str, authorization: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-d", body])
            .args(["--cacert", &ca, "--cert", &cert, "--key", &key, &format!("{url}{path}")]);
        if let Some(authorization) = authorization {
            curl.args(["-H", &format!("authorization: {authorization}")]);
        }
        let output = curl.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let operate =
        format!("Bearer {}", support::tokens::sign(Algorithm::ES256, "e", json!({"scope": "berth.operate"})));
    let session = json!({"key": SessionKey::new("nodes", b"alice"), "candidates": ["10.0.0.1:80"]});
    let resolve = json!({"pool": "nodes", "sessions": [session]}).to_string();
    let (node, drain) = ("/v1/nodes/10.0.0.1:80?pool=nodes", r#"{"state": "draining"}"#);

    for (method, path, body, proxies, operators) in [
        ("POST", "/v1/resolve", resolve.as_str(), "200", "403"),
        ("PUT", node, r#"{"cooldown_until_ms": 1}"#, "200", "200"),
        ("PUT", node, drain, "403", "200"),
        ("GET", "/v1/nodes?pool=nodes", "", "200", "200"),
    ] {
        assert_eq!(ask(method, path, body, None), proxies, "{method} {path} {body}");
        assert_eq!(ask(method, path, body, Some(&operate)), operators, "{method} {path} {body}");
        // A certificate makes no wrong token good.
        for wrong in ["Bearer wrong", "Basic d3Jvbmc6", "wrong"] {
            assert_eq!(ask(method, path, body, Some(wrong)), "401", "{method} {path} {body}");
        }
    }
}

fn resolved(service: &Service) -> u16 {
    let session = json!({"key": SessionKey::new("nodes", b"alice"), "candidates": ["10.0.0.1:80"]});
    service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string()).status
}

#[test]
fn redis_is_reached_over_tls_as_an_acl_user() {
    let files = Certificates::new();
    let tls_port = free_ports(1)[0];
    let (cert, key, ca) = (files.text("server.pem"), files.text("server.key"), files.text("ca.pem"));
    let server = RedisServer::start(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
        "--tls-auth-clients",
        "yes",
    ]);
    // No more than the service needs: its keys, and none of the commands that could harm the server.
    let user = ["ACL", "SETUSER", "berth", "on", ">hush", "~berth:*", "+@all", "-@dangerous", "-@admin"];
    assert_eq!(server.cli(&user).trim(), "OK");
    let options = |password: &str, client: Option<(PathBuf, PathBuf)>| Options {
        urls: vec![format!("rediss://berth:{password}@localhost:{tls_port}")],
        cluster: false,
        quorum: false,
        tls: Tls { ca: Some(Path::new(&ca).to_owned()), client, ..Tls::default() },
        timeout: Duration::from_secs(2),
        keeping: Keeping::default(),
    };
    let own = Some((files.path("client.pem"), files.path("client.key")));

    assert_eq!(resolved(&Service::on_redis(options("hush", own.clone()))), 200);
    assert_eq!(resolved(&Service::on_redis(options("wrong", own))), 503);
    assert_eq!(resolved(&Service::on_redis(options("hush", None))), 503);
}

/// A cluster of one server, whose certificate has its name and not its address.
/// The files of an authority, and of a server whose certificate has a name and no address.
fn named_localhost() -> TempDir {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let named = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(file("ca.pem"), authority.pem()).unwrap();
    std::fs::write(file("server.pem"), named.signed_by(&key, &authority).unwrap().pem()).unwrap();
    std::fs::write(file("server.key"), key.serialize_pem()).unwrap();
    folder
}

#[test]
fn a_cluster_that_announces_what_its_certificates_lack_is_named_as_the_cause() {
    let folder = named_localhost();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let tls_port = free_ports(1)[0];
    let server = RedisServer::start(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
        "--tls-cluster",
        "yes",
        "--cluster-enabled",
        "yes",
        "--cluster-announce-ip",
        "127.0.0.1",
        "--cluster-announce-tls-port",
        &tls_port.to_string(),
    ]);
    assert_eq!(server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).trim(), "OK");
    eventually("the cluster", || server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    let options = Options {
        urls: vec![format!("rediss://localhost:{tls_port}")],
        cluster: true,
        quorum: false,
        tls: Tls { ca: Some(file("ca.pem").into()), ..Tls::default() },
        timeout: Duration::from_secs(1),
        keeping: Keeping::default(),
    };

    let service = Service::on_redis(options.clone());
    let mut said = String::new();
    eventually("the cause", || {
        said = service.ask("GET", "/readyz", "").body;
        said.contains("cluster-announce-hostname")
    });
    assert!(said.contains(&format!("the cluster announces 127.0.0.1:{tls_port}")), "{said}");
    assert_eq!(resolved(&service), 503);

    // As the message says.
    for (name, value) in
        [("cluster-announce-hostname", "localhost"), ("cluster-preferred-endpoint-type", "hostname")]
    {
        assert_eq!(server.cli(&["CONFIG", "SET", name, value]).trim(), "OK");
    }
    let service = Service::on_redis(options);
    eventually("the cluster by its names", || resolved(&service) == 200);
}

#[test]
fn a_primary_that_sentinels_name_as_its_certificate_does_not_is_named_as_the_cause() {
    let folder = named_localhost();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let tls = |port: u16| {
        format!(
            "tls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no\ntls-replication yes\n",
            file("server.pem"),
            file("server.key"),
            file("ca.pem")
        )
    };
    let tls_port = free_ports(1)[0];
    std::fs::write(file("redis.conf"), tls(tls_port)).unwrap();
    let _server = RedisServer::start(&["--include", &file("redis.conf")]);
    let sentinel = |name: &str, more: &str| {
        let port = free_ports(1)[0];
        let config = folder.path().join(format!("{name}.conf"));
        let text = format!(
            "port 0\nbind 127.0.0.1\n{}{more}sentinel monitor mymaster {name} {tls_port} 1\n",
            tls(port)
        );
        std::fs::write(&config, text).unwrap();
        let server = Server::default();
        let mut command = Command::new("redis-server");
        command.arg(&config).arg("--sentinel").current_dir(folder.path());
        server.start(&mut command, &folder.path().join("log")).unwrap();
        (port, server)
    };
    let options = |port: u16, ca: &str| Options {
        urls: vec![format!("rediss+sentinel://localhost:{port}/mymaster")],
        cluster: false,
        quorum: false,
        tls: Tls { ca: Some(ca.into()), ..Tls::default() },
        timeout: Duration::from_secs(1),
        keeping: Keeping::default(),
    };
    let says = |service: &Service, text: &str| {
        let mut said = String::new();
        eventually(text, || {
            said = service.ask("GET", "/readyz", "").body;
            said.contains(text)
        });
        said
    };

    let (port, _by_address) = sentinel("127.0.0.1", "");
    let said = says(&Service::on_redis(options(port, &file("ca.pem"))), "announce-hostnames");
    assert!(said.contains(&format!("the Sentinels name 127.0.0.1:{tls_port} as primary")), "{said}");
    let others = Certificates::new();
    says(&Service::on_redis(options(port, &others.text("ca.pem"))), "invalid peer certificate");

    // As the message says.
    let names = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n";
    let (port, _by_name) = sentinel("localhost", names);
    let service = Service::on_redis(options(port, &file("ca.pem")));
    eventually("the primary by its name", || resolved(&service) == 200);
}
