//! A proxy between a command and the state service, such as a mesh's sidecar: it passes requests on, answers them itself, or hangs.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::http::raw;

/// What it does with a request.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    Pass,
    /// A status with this text, as Envoy answers.
    Say(u16, &'static str),
    /// No answer, and the connection stays open.
    Hang,
    /// It passes the request on at once, and the answer so many milliseconds after that.
    Late(u64),
}

/// A proxy in front of the service at an address.
pub struct Between {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    words: &'static str,
    /// For the first requests, one each.
    first: Vec<Does>,
    then: Does,
    requests: Vec<String>,
    hanging: Vec<TcpStream>,
}

impl Between {
    pub fn start(service: SocketAddr, first: &[Does], then: Does) -> Self {
        Self::of("", service, first, then)
    }

    /// For requests with these words in their first line only; it passes all others on.
    pub fn of(words: &'static str, service: SocketAddr, first: &[Does], then: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (first, requests, hanging) = (first.to_vec(), Vec::new(), Vec::new());
        let state = State { words, first, then, requests, hanging };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map(Result::unwrap) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, service, &state));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn does(&self, then: Does) {
        self.state.lock().unwrap().then = then;
    }

    /// The first lines of the requests that came.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn serve(mut stream: TcpStream, service: SocketAddr, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let does = {
        let mut state = state.lock().unwrap();
        let line = head.lines().next().unwrap().to_owned();
        let is_other = !line.contains(state.words);
        state.requests.push(line);
        if is_other {
            Does::Pass
        } else if state.first.is_empty() {
            state.then
        } else {
            state.first.remove(0)
        }
    };
    let (status, kind, text) = match does {
        Does::Hang => return state.lock().unwrap().hanging.push(stream),
        Does::Say(status, text) => (status, "text/plain", text.to_owned()),
        Does::Pass | Does::Late(_) => {
            let request = [format!("{head}connection: close\r\n\r\n").into_bytes(), body].concat();
            let reply = raw(service, &request);
            if let Does::Late(milliseconds) = does {
                std::thread::sleep(Duration::from_millis(milliseconds));
            }
            (reply.status, "application/json", reply.body)
        }
    };
    let length = text.len();
    let head = format!(
        "HTTP/1.1 {status} As Said\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let _ = stream.write_all(format!("{head}{text}").as_bytes());
}
