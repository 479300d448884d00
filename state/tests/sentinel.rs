//! Redis behind Sentinels, which are real: the service finds the primary that they name, and the next one when that is gone.
#[path = "support/http.rs"]
mod http;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Redis, Store as _};
use serde_json::json;
use tempfile::TempDir;

use http::Service;
use support::process::Server;
use support::{RedisServer, eventually, free_ports};

/// Of the servers, and of the Sentinels.
const PASSWORD: &str = "s3rver p@ss";
const SENTINELS_PASSWORD: &str = "s3ntinel";

struct Sentinel {
    port: u16,
    server: Server,
    _folder: TempDir,
}

impl Sentinel {
    fn start(primary: &RedisServer) -> Self {
        let (folder, port) = (TempDir::new().unwrap(), free_ports(1)[0]);
        let config = folder.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} 2\n\
             sentinel auth-pass mymaster \"{PASSWORD}\"\nsentinel down-after-milliseconds mymaster 1000\n\
             sentinel failover-timeout mymaster 5000\n\
             requirepass {SENTINELS_PASSWORD}\nsentinel sentinel-pass {SENTINELS_PASSWORD}\n",
            primary.port
        );
        std::fs::write(&config, text).unwrap();
        let server = Server::default();
        let mut command = Command::new("redis-server");
        command.arg(&config).arg("--sentinel").current_dir(folder.path());
        server.start(&mut command, &folder.path().join("log")).unwrap();
        Self { port, server, _folder: folder }
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        let output = Command::new("redis-cli")
            .args(["--no-auth-warning", "-a", SENTINELS_PASSWORD, "-p", &port])
            .args(arguments)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// It can make the replica the primary: it knows it, and the two other Sentinels.
    fn is_whole(&self) -> bool {
        let said = self.cli(&["SENTINEL", "MASTER", "mymaster"]);
        let lines: Vec<&str> = said.lines().collect();
        let is = |name: &str, value: &str| lines.windows(2).any(|pair| pair == [name, value]);
        is("num-slaves", "1") && is("num-other-sentinels", "2") && is("flags", "master")
    }
}

fn options(urls: String) -> Options {
    Options {
        urls: vec![urls],
        cluster: false,
        quorum: false,
        tls: Tls::default(),
        timeout: Duration::from_secs(2),
        keeping: Keeping::default(),
    }
}

fn resolve(service: &Service) -> http::Reply {
    let session = json!({"key": SessionKey::new("nodes", b"alice"), "candidates": ["10.0.0.1:80"]});
    service.ask("POST", "/v1/resolve", &json!({"pool": "nodes", "sessions": [session]}).to_string())
}

#[test]
fn the_next_primary_is_found_when_the_first_is_killed() {
    // Servers that ask for a password do not tell redis-cli that they run: it is set afterwards.
    let [primary, replica] = [0, 1].map(|_| RedisServer::start(&["--repl-diskless-sync-delay", "0"]));
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    for server in [&primary, &replica] {
        server.cli(&["CONFIG", "SET", "masterauth", PASSWORD, "requirepass", PASSWORD]);
    }
    let sentinels = [0, 1, 2].map(|_| Sentinel::start(&primary));
    eventually("Sentinels that agree", || sentinels.iter().all(Sentinel::is_whole));
    let hosts: Vec<String> =
        sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    // Nothing listens at the first: the others are enough.
    let hosts = format!("127.0.0.1:{},{}", free_ports(1)[0], hosts.join(","));
    let password = PASSWORD.replace(' ', "%20").replace('@', "%40");
    let url = format!("redis+sentinel://:{password}@{hosts}/mymaster?sentinel_password={SENTINELS_PASSWORD}");

    let service = Service::on_redis(options(url));
    eventually("the primary", || service.ask("GET", "/readyz", "").status == 200);
    assert_eq!(resolve(&service).json()["pins"][0]["outcome"], "claimed");
    let pin = Redis::pin_key(&"nodes".parse().unwrap(), SessionKey::new("nodes", b"alice"));
    let with_password = ["--no-auth-warning", "-a", PASSWORD];
    eventually("the replica", || {
        replica.cli(&[&with_password[..], &["EXISTS", &pin]].concat()).trim() == "1"
    });

    primary.kill();

    eventually("the next primary", || resolve(&service).status == 200);
    assert_eq!(resolve(&service).json()["pins"][0]["outcome"], "found");
    eventually("readiness", || service.ask("GET", "/readyz", "").status == 200);
}

/// It did not see the failover, and the others are gone.
#[test]
fn a_lone_sentinel_that_is_behind_moves_nobody_to_an_old_primary() {
    let [old, new] = [0, 1].map(|_| RedisServer::start(&[]));
    for server in [&old, &new] {
        server.cli(&["CONFIG", "SET", "masterauth", PASSWORD, "requirepass", PASSWORD]);
    }
    let sentinels = [&old, &new, &new].map(Sentinel::start);
    let master = ["SENTINEL", "get-master-addr-by-name", "mymaster"];
    let knows =
        |sentinel: &Sentinel, server: &RedisServer| sentinel.cli(&master).contains(&server.port.to_string());
    eventually("the Sentinels", || sentinels.iter().zip([&old, &new, &new]).all(|(one, of)| knows(one, of)));
    let hosts = sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).join(",");
    let password = PASSWORD.replace(' ', "%20").replace('@', "%40");
    let url = format!("redis+sentinel://:{password}@{hosts}/mymaster?sentinel_password={SENTINELS_PASSWORD}");
    let service = Service::on_redis(options(url));
    eventually("the primary", || resolve(&service).status == 200);

    sentinels[1..].iter().for_each(|sentinel| sentinel.server.kill());

    // Several looks at the Sentinels, one a second.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        assert_eq!(resolve(&service).json()["pins"][0]["outcome"], "found");
    }
    let with_password = ["--no-auth-warning", "-a", PASSWORD, "DBSIZE"];
    assert_eq!(old.cli(&with_password).trim(), "0");
}

#[tokio::test]
async fn what_keeps_a_store_from_its_primary_is_said() {
    let primary = RedisServer::start(&[]);
    let sentinel = Sentinel::start(&primary);
    eventually("the Sentinel", || sentinel.cli(&["PING"]).trim() == "PONG");
    let port = sentinel.port;
    let closed = free_ports(1)[0];
    for (url, says) in [
        // Without a word about it, a Sentinel answers as a server that knows no command.
        (
            format!("redis://:{SENTINELS_PASSWORD}@127.0.0.1:{port}"),
            "is it a Sentinel? Then the URL is redis+sentinel://",
        ),
        (format!("redis+sentinel://127.0.0.1:{closed}/mymaster"), "no Sentinel answers"),
        (format!("redis+sentinel://127.0.0.1:{port}/mymaster"), "authentication"),
        (
            format!("redis+sentinel://127.0.0.1:{port}/other?sentinel_password={SENTINELS_PASSWORD}"),
            "no Sentinel knows a service other",
        ),
    ] {
        let store = Redis::open(&options(url.clone())).unwrap();
        support::eventually_async(says, || async {
            let said = store.ready().await.map_or_else(|error| error.to_string(), |()| String::new());
            said.to_lowercase().contains(&says.to_lowercase())
        })
        .await;
    }
}
