//! Envoy's admin interface, over a Unix socket or a port, and what its pages mean.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::eventually::patience;

/// A whole configuration dump of thousands of nodes takes a second or two.
const LIMIT: Duration = Duration::from_secs(10);
/// What the kernel allows for the path of a Unix socket, with its final zero (Linux 108, macOS 104).
const SOCKET_PATH: usize = 104;

/// Where it listens.
#[derive(Debug)]
pub(super) enum Admin {
    /// Needs no port: what tests use.
    Socket(PathBuf),
    /// Can be asked with curl: what the demo uses.
    Port(SocketAddr),
}

impl Admin {
    /// On a socket, unless it must be a port of 127.0.0.1.
    pub(super) fn new(socket: &Path, port: Option<u16>) -> Self {
        if let Some(port) = port {
            return Self::Port(SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let fits = socket.as_os_str().len() < SOCKET_PATH;
        assert!(fits, "{}: too long for a Unix socket, set TMPDIR to a shorter path", socket.display());
        Self::Socket(socket.to_owned())
    }

    /// As Envoy's configuration names it.
    pub(super) fn address(&self) -> Value {
        match self {
            Self::Socket(path) => json!({"pipe": {"path": path}}),
            Self::Port(address) => {
                json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
            }
        }
    }

    /// Takes away what an Envoy that was killed left behind.
    pub(super) fn clean_up(&self) {
        if let Self::Socket(path) = self {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<String, String> {
        self.request(Method::GET, path).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<String, String> {
        self.request(Method::POST, path).await
    }

    async fn request(&self, method: Method, path: &str) -> Result<String, String> {
        let exchange = timeout(patience(LIMIT), self.exchange(method, path)).await;
        let (status, body) = exchange.map_err(|_| format!("no answer in {LIMIT:?}"))??;
        if status == StatusCode::OK { Ok(body) } else { Err(format!("{status}: {body}")) }
    }

    async fn exchange(&self, method: Method, path_of_page: &str) -> Result<(StatusCode, String), String> {
        let refused = |error: std::io::Error| error.to_string();
        match self {
            Self::Socket(path) => {
                exchange(UnixStream::connect(path).await.map_err(refused)?, method, path_of_page).await
            }
            Self::Port(address) => {
                exchange(TcpStream::connect(address).await.map_err(refused)?, method, path_of_page).await
            }
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    method: Method,
    path: &str,
) -> Result<(StatusCode, String), String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::builder().method(method).uri(path).header(header::HOST, "admin");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // Owns the sender: the connection ends with the exchange.
    let answer = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer.map_err(|error: hyper::Error| error.to_string())
}

/// A host of a cluster, as Envoy has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The cluster.
    pub cluster: String,
    /// `ip:port`.
    pub address: String,
    /// Load-balancing weight.
    pub weight: u64,
    /// Priority.
    pub priority: u64,
    /// What EDS says: HEALTHY, DEGRADED, DRAINING, …
    pub eds_health: String,
    /// The other flags that are up, such as `failed_active_health_check`.
    pub flags: Vec<String>,
}

impl Host {
    /// Whether Envoy would send it requests.
    pub fn is_healthy(&self) -> bool {
        self.flags.is_empty() && matches!(self.eds_health.as_str(), "HEALTHY" | "UNKNOWN")
    }

    /// Whether this flag is up.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|up| up == flag)
    }
}

/// Reads `/clusters?format=json`.
pub(super) fn hosts(page: &str) -> Vec<Host> {
    let page = json(page);
    let mut hosts = Vec::new();
    for cluster in list(&page["cluster_statuses"]) {
        for host in list(&cluster["host_statuses"]) {
            let socket = &host["address"]["socket_address"];
            let Some(ip) = socket["address"].as_str() else { continue };
            let health = host["health_status"].as_object().into_iter().flatten();
            let flags = health.filter(|(_, up)| **up == Value::Bool(true));
            hosts.push(Host {
                cluster: cluster["name"].as_str().unwrap_or_default().into(),
                address: format!("{ip}:{}", socket["port_value"]),
                weight: host["weight"].as_u64().unwrap_or(0),
                priority: host["priority"].as_u64().unwrap_or(0),
                eds_health: host["health_status"]["eds_health_status"].as_str().unwrap_or("UNKNOWN").into(),
                flags: flags.map(|(flag, _)| flag.clone()).collect(),
            });
        }
    }
    hosts
}

/// Reads `/listeners?format=json`.
pub(super) fn listener_address(page: &str, name: &str) -> Option<std::net::SocketAddr> {
    let page = json(page);
    let listener = list(&page["listener_statuses"]).find(|listener| listener["name"] == name)?;
    let socket = &listener["local_address"]["socket_address"];
    format!("{}:{}", socket["address"].as_str()?, socket["port_value"]).parse().ok()
}

/// Why listeners were refused, from `/config_dump?resource=dynamic_listeners`.
pub(super) fn rejection(page: &str) -> String {
    let page = json(page);
    let details = list(&page["configs"]).filter_map(|listener| listener["error_state"]["details"].as_str());
    details.last().unwrap_or("no reason given; see the log").trim().into()
}

/// The page that holds one stat: the filter is a regular expression.
pub(super) fn stats_path(name: &str) -> String {
    // A name of Istio's has `|` in it.
    let pattern = name.replace('.', "\\.").replace('|', "\\|");
    let encoded = pattern.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    format!("/stats?filter=%5E{}%24", encoded.collect::<String>())
}

/// One stat of a page of lines `name: value`.
pub(super) fn stat(page: &str, name: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
}

/// Sums the stats that tell of failed or reloaded VMs; the filter's own metrics (`wasmcustom.`) are another matter.
pub(super) fn wasm_failures(page: &str) -> u64 {
    let lines = page.lines().filter(|line| line.starts_with("wasm."));
    let stats = lines.filter_map(|line| line.split_once(": "));
    let failures =
        stats.filter(|(name, _)| ["fail", "reload", "error"].iter().any(|word| name.contains(word)));
    failures.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

fn json(page: &str) -> Value {
    serde_json::from_str(page).unwrap_or_else(|error| panic!("admin page is not JSON ({error}): {page}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
