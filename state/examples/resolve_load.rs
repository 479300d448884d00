//! How many sessions a running `berth serve` resolves a second, and how long a request takes.
//!
//! ```text
//! cargo run --release -p berth-state --example resolve_load -- 127.0.0.1:8650 --connections 32 --batch 1 --seconds 10
//! ```
//!
//! Requests are written beforehand and answers are not parsed, so that the load costs little where it shares a machine.
//! Sessions are drawn from a fixed set: after the first seconds nearly all are found, as in a proxy's steady misses.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Different requests. Each names `batch` sessions, so this many times batch are in use.
const REQUESTS: usize = 4096;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(address) = arguments.next() else {
        eprintln!("usage: resolve_load HOST:PORT [--connections N] [--batch N] [--seconds N]");
        return ExitCode::from(2);
    };
    let (mut connections, mut batch, mut seconds) = (32, 1, 10);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        let Ok(number) = value.parse::<usize>() else { return ExitCode::from(2) };
        match name.as_str() {
            "--connections" => connections = number,
            "--batch" => batch = number,
            "--seconds" => seconds = number,
            _ => return ExitCode::from(2),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let requests: Vec<Vec<u8>> = (0..REQUESTS).map(|number| request(&address, number, batch)).collect();
        let requests: &'static [Vec<u8>] = requests.leak();
        let end = Instant::now() + Duration::from_secs(seconds as u64);
        let start = Instant::now();
        let tasks: Vec<_> =
            (0..connections).map(|number| tokio::spawn(work(address.clone(), requests, number * 61, end))).collect();
        let (mut took, mut failed) = (Vec::new(), 0);
        for task in tasks {
            let (times, failures) = task.await.unwrap();
            took.extend(times);
            failed += failures;
        }
        let elapsed = start.elapsed().as_secs_f64();
        took.sort_unstable();
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
        println!(
            "{:.0} resolves/s in {:.0} requests/s of {batch}, {connections} connections; p50 {:?} p99 {:?} max {:?}; {failed} failed",
            (took.len() * batch) as f64 / elapsed,
            took.len() as f64 / elapsed,
            at(0.5),
            at(0.99),
            took.last().copied().unwrap_or_default(),
        );
    });
    ExitCode::SUCCESS
}

fn request(address: &str, number: usize, batch: usize) -> Vec<u8> {
    let sessions: Vec<_> = (0..batch)
        .map(|i| {
            let key = berth_core::wire::SessionKey::new("load", &(number * batch + i).to_le_bytes());
            let nodes = [0, 1, 2].map(|node| format!("10.0.0.{}:8080", 1 + (number + i + node) % 8));
            json!({"key": key, "candidates": nodes})
        })
        .collect();
    let body = json!({"pool": "load", "sessions": sessions}).to_string();
    format!("POST /v1/resolve HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

async fn work(
    address: String,
    requests: &[Vec<u8>],
    mut next: usize,
    end: Instant,
) -> (Vec<Duration>, usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut took, mut failed) = (Vec::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    while Instant::now() < end {
        let start = Instant::now();
        stream.write_all(&requests[next % requests.len()]).await.unwrap();
        if answer(&mut stream, &mut buffer).await {
            took.push(start.elapsed());
        } else {
            failed += 1;
        }
        next += 1;
    }
    (took, failed)
}

/// Reads one answer; true if it was 200.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8]) -> bool {
    let mut have = 0;
    loop {
        have += stream.read(&mut buffer[have..]).await.unwrap();
        let text = &buffer[..have];
        let Some(head) = text.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let lines = String::from_utf8_lossy(&text[..head]);
        let length =
            lines.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if have >= head + 4 + length.unwrap_or(0) {
            return lines.starts_with("HTTP/1.1 200");
        }
    }
}
