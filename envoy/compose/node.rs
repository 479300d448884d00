//! A node to try Berth with: it keeps in memory how often each session was here, which is lost with it. It answers
//! `/healthz`, and everything else with its name and that number.
//!
//!     node [IP:PORT [NAME]]      default: 0.0.0.0:8080 and $HOSTNAME
//!
//! Of the standard library alone: `scripts/build-static` compiles it for a container that holds nothing else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// More than any client of a trial sends.
const MAX_HEAD: u64 = 64 << 10;

type Sessions = Mutex<HashMap<String, u64>>;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "0.0.0.0:8080".to_owned());
    let name = arguments.next().or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| address.clone());
    let listener = TcpListener::bind(&address)?;
    println!("{name} listens on {}", listener.local_addr()?);
    let (name, sessions) = (Arc::new(name), Arc::new(Sessions::default()));
    for stream in listener.incoming() {
        let (stream, name, sessions) = (stream?, Arc::clone(&name), Arc::clone(&sessions));
        std::thread::spawn(move || serve(stream, &name, &sessions));
    }
    Ok(())
}

/// Answers a connection's requests one after another, until it ends or is broken.
fn serve(stream: TcpStream, name: &str, sessions: &Sessions) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = (&mut reader).take(MAX_HEAD).lines().map_while(Result::ok);
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        let (mut session, mut cookie, mut length) = (None, None, 0);
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((header, value)) = line.split_once(':') else { continue };
            let value = value.trim().to_owned();
            match header.to_ascii_lowercase().as_str() {
                "x-session-id" => session = Some(value),
                "cookie" => {
                    cookie =
                        value.split(';').find_map(|pair| Some(pair.trim().strip_prefix("sid=")?.to_owned()))
                }
                "content-length" => length = value.parse().ok()?,
                _ => {}
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink()).ok()?;
        let body = if path == "/healthz" {
            "well\n".to_owned()
        } else {
            match session.or(cookie) {
                None => format!("{name}: no session\n"),
                Some(session) => {
                    let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
                    let count = sessions.entry(session.clone()).or_default();
                    *count += 1;
                    format!("{name}: request {count} of session {session}\n")
                }
            }
        };
        write!(writer, "HTTP/1.1 200 OK\r\nx-node: {name}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            .ok()?;
    }
}
