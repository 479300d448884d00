//! Files that change beneath a running service: certificates, passwords, tokens. Clients and servers are real.
#[path = "support/commands.rs"]
mod commands;
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use berth_core::wire::SessionKey;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use serde_json::json;
use tempfile::TempDir;

use commands::berth;
use support::{RedisServer, eventually, free_ports};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

struct Files(TempDir);

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A certificate and its key, good until the first of January of a year.
    fn certificate(&self, name: &str, signer: &Authority, until: i32) {
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("{name} until {until}"));
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, signer).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(arguments: &[&str]) -> (Running, u16) {
    let port = free_ports(1)[0];
    let child = berth(&["serve", "--listen", &format!("127.0.0.1:{port}"), "--store-timeout", "10s"])
        .args(arguments)
        .stderr(Stdio::null())
        .spawn();
    let running = Running(child.unwrap());
    eventually("the service", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (running, port)
}

/// The body of a page, or nothing. With certificates if there are files.
fn curl(port: u16, path: &str, files: Option<&Files>, more: &[&str]) -> String {
    let mut curl = Command::new("curl");
    let scheme = if files.is_some() { "https" } else { "http" };
    curl.args(["-sS", "-m", "10", &format!("{scheme}://localhost:{port}{path}")]).args(more);
    if let Some(files) = files {
        curl.args(["--cacert", &files.text("ca.pem")]);
        curl.args(["--cert", &files.text("client.pem"), "--key", &files.text("client.key")]);
    }
    String::from_utf8(curl.output().unwrap().stdout).unwrap()
}

fn metric(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What `openssl s_client` sees of a new connection: who the server is, and whether it may speak.
fn openssl(files: &Files, port: u16) -> Child {
    Command::new("openssl")
        .args(["s_client", "-connect", &format!("localhost:{port}"), "-servername", "localhost", "-quiet"])
        .args(["-CAfile", &files.text("ca.pem"), "-verify_return_error"])
        .args(["-cert", &files.text("client.pem"), "-key", &files.text("client.key")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ask_on(client: &mut Child) -> String {
    let input = client.stdin.as_mut().unwrap();
    input.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 4096];
    let length = client.stdout.as_mut().unwrap().read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// The certificate's subject on a new connection.
fn served(files: &Files, port: u16) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-connect", &format!("localhost:{port}"), "-servername", "localhost"])
        .args(["-CAfile", &files.text("ca.pem")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.starts_with("subject")).unwrap_or_default().to_owned()
}

#[test]
fn the_listener_serves_new_certificates_and_drops_no_connection() {
    let (files, first) = (Files(TempDir::new().unwrap()), authority("first"));
    files.write("ca.pem", &first.pem());
    files.write("clients-ca.pem", &first.pem());
    files.certificate("server", &first, 2101);
    files.certificate("client", &first, 2102);
    let (_serve, port) = serve(&[
        "--tls-cert",
        &files.text("server.pem"),
        "--tls-key",
        &files.text("server.key"),
        "--tls-client-ca",
        &files.text("clients-ca.pem"),
    ]);
    let metrics = |name: &str| metric(&curl(port, "/metrics", Some(&files), &[]), name);
    let expiry = r#"berth_state_certificate_expiry_timestamp_seconds{file="tls-cert"}"#;
    eventually("TLS", || served(&files, port).contains("until 2101"));
    assert_eq!(metrics(expiry), Some(4_133_980_800.0));
    assert_eq!(metrics(r#"berth_state_files_current{file="tls"}"#), Some(1.0));
    let mut before = openssl(&files, port);
    assert!(ask_on(&mut before).starts_with("HTTP/1.1 200"));

    // The certificate without its key, then nonsense: the old ones are kept.
    let key = std::fs::read_to_string(files.path("server.key")).unwrap();
    for (name, text) in [("server.key", "nonsense"), ("server.pem", "-----BEGIN CERTIFICATE-----\n")] {
        let old = std::fs::read_to_string(files.path(name)).unwrap();
        files.write(name, text);
        eventually("it is said", || metrics(r#"berth_state_files_current{file="tls"}"#) == Some(0.0));
        assert!(served(&files, port).contains("until 2101"));
        files.write(name, &old);
        eventually("all is well", || metrics(r#"berth_state_files_current{file="tls"}"#) == Some(1.0));
    }
    assert_eq!(std::fs::read_to_string(files.path("server.key")).unwrap(), key);

    files.certificate("server", &first, 2103);
    eventually("the new one", || served(&files, port).contains("until 2103"));
    assert_eq!(metrics(expiry), Some(4_197_052_800.0));

    // Another authority for clients: those of before are refused, and the connection of one goes on.
    let second = authority("second");
    assert_eq!(curl(port, "/healthz", Some(&files), &[]), "ok\n");
    files.write("clients-ca.pem", &second.pem());
    eventually("clients of before are refused", || curl(port, "/healthz", Some(&files), &[]).is_empty());
    files.certificate("client", &second, 2104);
    eventually("new clients", || curl(port, "/healthz", Some(&files), &[]) == "ok\n");
    assert!(ask_on(&mut before).starts_with("HTTP/1.1 200"));
    before.kill().unwrap();
    before.wait().unwrap();
}

#[test]
fn tokens_of_a_file_are_replaced_one_after_the_other() {
    let files = Files(TempDir::new().unwrap());
    files.write("tokens", "old\n");
    let (_serve, port) = serve(&["--token-file", &files.text("tokens")]);
    let may = |token: &str| {
        let header = format!("authorization: Bearer {token}");
        let more = ["-o", "/dev/null", "-w", "%{http_code}", "-H", &header];
        curl(port, "/v1/nodes?pool=nodes", None, &more) == "200"
    };
    let may_all = || ["old", "new", "none"].map(may);
    assert_eq!(may_all(), [true, false, false]);

    files.write("tokens", "new\n\nold\n");
    eventually("both", || may_all() == [true, true, false]);
    files.write("tokens", " \n");
    let is_current =
        || metric(&curl(port, "/metrics", None, &[]), r#"berth_state_files_current{file="token"}"#);
    eventually("it is said", || is_current() == Some(0.0));
    assert_eq!(may_all(), [true, true, false]);
    files.write("tokens", "new");
    eventually("the new one", || may_all() == [false, true, false]);
}

fn resolves(port: u16) -> bool {
    let session = json!({"key": SessionKey::new("nodes", b"alice"), "candidates": ["10.0.0.1:80"]});
    let body = json!({"pool": "nodes", "sessions": [session]}).to_string();
    curl(port, "/v1/resolve", None, &["-o", "/dev/null", "-w", "%{http_code}", "-d", &body]) == "200"
}

#[test]
fn redis_is_reached_with_new_certificates_and_a_new_password() {
    let (files, first, second) = (Files(TempDir::new().unwrap()), authority("first"), authority("second"));
    files.write("ca.pem", &first.pem());
    files.certificate("server", &first, 2101);
    files.certificate("client", &first, 2102);
    files.write("password", "old\n");
    // What the server has is apart from what the service has.
    let server_files = Files(TempDir::new().unwrap());
    server_files.write("ca.pem", &first.pem());
    server_files.certificate("server", &first, 2101);
    let tls_port = free_ports(1)[0].to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &server_files.text("server.pem"),
        "--tls-key-file",
        &server_files.text("server.key"),
        "--tls-ca-cert-file",
        &server_files.text("ca.pem"),
        "--tls-auth-clients",
        "yes",
    ]);
    let user = ["ACL", "SETUSER", "berth", "on", ">old", "~berth:*", "+@all"];
    assert_eq!(server.cli(&user).trim(), "OK");
    let (_serve, port) = serve(&[
        "--redis",
        &format!("rediss://berth@localhost:{tls_port}"),
        "--redis-ca",
        &files.text("ca.pem"),
        "--redis-cert",
        &files.text("client.pem"),
        "--redis-key",
        &files.text("client.key"),
        "--redis-password-file",
        &files.text("password"),
    ]);
    eventually("Redis", || resolves(port));
    let connections = || {
        let all = server.cli(&["CLIENT", "LIST"]);
        let own = all.lines().filter(|line| line.contains("user=berth"));
        own.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let is_current =
        || metric(&curl(port, "/metrics", None, &[]), r#"berth_state_files_current{file="redis"}"#);

    // Broken and half replaced: the old connection serves.
    let before = connections();
    files.write("client.key", "nonsense");
    eventually("it is said", || is_current() == Some(0.0));
    assert!(resolves(port));
    files.certificate("client", &first, 2103);
    eventually("it is well", || is_current() == Some(1.0));

    // In the file before it is in Redis: the old connection serves until the new one is accepted.
    let are_left = |before: &[String]| {
        let now = connections();
        !now.is_empty() && now.iter().all(|id| !before.contains(id))
    };
    eventually("a connection with the new certificate", || resolves(port) && are_left(&before));
    let before = connections();
    files.write("password", "new\n");
    for _ in 0..20 {
        assert!(resolves(port));
    }
    assert_eq!(server.cli(&["ACL", "SETUSER", "berth", ">new", "<old"]).trim(), "OK");
    eventually("another connection", || {
        assert!(resolves(port));
        are_left(&before)
    });

    // Another authority, first at the service: the server is reached as before, also by connections that are new.
    files.write("ca.pem", &second.pem());
    files.certificate("client", &second, 2105);
    let is_replaced = || {
        let page = curl(port, "/metrics", None, &[]);
        let expiry = r#"berth_state_certificate_expiry_timestamp_seconds{file="redis-cert"}"#;
        metric(&page, expiry).is_some_and(|over| over > 4_230_000_000.0)
    };
    eventually("the files", is_replaced);
    let kill = || server.cli(&["CLIENT", "KILL", "USER", "berth"]);
    kill();
    assert!(resolves(port));
    server_files.write("ca.pem", &second.pem());
    server_files.certificate("server", &second, 2104);
    let set = ["CONFIG", "SET", "tls-ca-cert-file"];
    let more =
        [server_files.text("ca.pem"), server_files.text("server.pem"), server_files.text("server.key")];
    let all = [&set[..], &[&more[0], "tls-cert-file", &more[1], "tls-key-file", &more[2]]].concat();
    let before = connections();
    assert_eq!(server.cli(&all).trim(), "OK");
    kill();
    assert!(resolves(port));
    eventually("another connection", || {
        assert!(resolves(port));
        are_left(&before)
    });
}
