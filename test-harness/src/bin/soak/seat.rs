//! One live WebSocket after the other: opened for a session through one of the Envoys, kept by a message now and then, closed,
//! opened again through the other Envoy, and replaced by one of a new session.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_harness::{Client, Refusal, WebSocket};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::ledger::{By, Event, Home, Ledger, Part};

/// What is not answered in this time is lost.
const LIMIT: Duration = Duration::from_secs(20);
/// Before the next try.
const PAUSE: Duration = Duration::from_millis(250);
/// After an answer that the ring gave: the proxy asks again after 2 s.
const LATER: Duration = Duration::from_secs(5);
/// Openings under way at once: after an Envoy's restart each of its sockets is opened again, and what has to wait for a processor
/// of this machine says nothing of Berth.
const OPENINGS: usize = 48;

/// What all seats share.
pub(crate) struct Load {
    pub(crate) ledger: Ledger,
    pub(crate) live: AtomicI64,
    /// By Envoy; nothing while that one is away.
    clients: Vec<Mutex<Option<Client>>>,
    nodes: Vec<String>,
    openings: Semaphore,
    /// The mean time between two messages of one socket.
    interval: Duration,
}

impl Load {
    pub(crate) fn new(clients: Vec<Client>, nodes: Vec<String>, interval: Duration) -> Arc<Self> {
        Arc::new(Self {
            ledger: Ledger::default(),
            live: AtomicI64::new(0),
            clients: clients.into_iter().map(|client| Mutex::new(Some(client))).collect(),
            nodes,
            openings: Semaphore::new(OPENINGS),
            interval,
        })
    }

    /// From now on this Envoy is reached so, or not at all.
    pub(crate) fn reach(&self, envoy: usize, client: Option<Client>) {
        *self.clients[envoy].lock().unwrap() = client;
    }

    async fn client(&self, envoy: usize) -> Client {
        loop {
            if let Some(client) = self.clients[envoy].lock().unwrap().clone() {
                return client;
            }
            sleep(PAUSE).await;
        }
    }

    fn node(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node == name).expect("a node of this world")
    }
}

/// A place that always has one live socket.
pub(crate) struct Seat {
    load: Arc<Load>,
    number: usize,
    session: String,
    envoy: usize,
    home: Option<Home>,
    random: u64,
}

/// Why a socket is no longer held.
enum Next {
    /// The session goes on by another socket.
    Reconnect,
    /// Another session begins.
    Begin,
}

impl Seat {
    pub(crate) fn new(load: &Arc<Load>, number: usize) -> Self {
        let random = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            load: Arc::clone(load),
            number,
            session: String::new(),
            envoy: number % load.clients.len(),
            home: None,
            random,
        }
    }

    /// Goes on until it is dropped.
    pub(crate) async fn occupy(mut self, delay: Duration) {
        sleep(delay).await;
        for life in 0.. {
            self.session = format!("soak-{}-{life}", self.number);
            self.home = None;
            self.load.ledger.count(Event::Session);
            while let Next::Reconnect = self.hold().await {}
        }
    }

    /// One socket, from before its start until after its end.
    async fn hold(&mut self) -> Next {
        let Some(mut socket) = self.open().await else { return Next::Reconnect };
        self.load.live.fetch_add(1, Ordering::Relaxed);
        let next = self.keep(&mut socket).await;
        self.load.live.fetch_sub(1, Ordering::Relaxed);
        // A socket that its node has left open by then is closed all the same.
        let _ = tokio::time::timeout(LATER, socket.close()).await;
        next
    }

    async fn open(&mut self) -> Option<WebSocket> {
        let load = Arc::clone(&self.load);
        let _permit = load.openings.acquire().await.expect("nothing closes it");
        let client = load.client(self.envoy).await;
        let began = Instant::now();
        let request = client.get(&format!("/ws/{}", self.session)).within(LIMIT);
        match request.open_websocket().await {
            Ok(socket) => {
                load.ledger.count(Event::Socket);
                let header = socket.headers().get("x-berth").and_then(|value| value.to_str().ok());
                let provisional = self.found(socket.node(), self.envoy, header.unwrap_or_default(), None);
                if !provisional {
                    return Some(socket);
                }
                sleep(LATER).await;
                None
            }
            Err(refusal) => {
                self.lost(self.envoy, began, &format!("WebSocket: {}", text(&refusal)));
                sleep(PAUSE).await;
                None
            }
        }
    }

    async fn keep(&mut self, socket: &mut WebSocket) -> Next {
        let load = Arc::clone(&self.load);
        loop {
            let pause = load.interval.mul_f64(0.5 + self.draw());
            if socket.ends_within(pause).await {
                self.cut(socket, Instant::now(), "it ended");
                return Next::Reconnect;
            }
            let began = Instant::now();
            if let Err(failure) = socket.try_echo(&self.session, LIMIT).await {
                self.cut(socket, began, &failure);
                return Next::Reconnect;
            }
            load.ledger.count(Event::Message);
            match self.draw() {
                draw if draw < 0.10 => return Next::Begin,
                draw if draw < 0.20 => {
                    self.envoy = (self.envoy + 1) % load.clients.len();
                    return Next::Reconnect;
                }
                draw if draw < 0.40 => self.ask_the_other(socket.node().to_owned()).await,
                _ => {}
            }
        }
    }

    /// While the socket is open at one node, the other Envoy must send the session there too.
    async fn ask_the_other(&mut self, open: String) {
        let load = Arc::clone(&self.load);
        let envoy = (self.envoy + 1) % load.clients.len();
        let Some(client) = load.clients[envoy].lock().unwrap().clone() else { return };
        let began = Instant::now();
        let request = client.get("/").header("x-session-id", &self.session).within(LIMIT);
        match request.try_send().await {
            Ok(answer) if answer.status == 200 => {
                load.ledger.count(Event::Request);
                let header = answer.header("x-berth").unwrap_or_default();
                self.found(answer.node(), envoy, header, Some(&open));
            }
            Ok(answer) => self.lost(envoy, began, &format!("request: {} {:?}", answer.status, answer.body)),
            Err(failure) => self.lost(envoy, began, &format!("request: {failure}")),
        }
    }

    /// Counts where an answer came from; says whether it is only for now. `open` is the node of a socket that is open meanwhile.
    fn found(&mut self, name: &str, envoy: usize, header: &str, open: Option<&str>) -> bool {
        let ledger = &self.load.ledger;
        let known = self.home;
        let judged = ledger.judge(&mut self.home, self.load.node(name), envoy, By::of(header));
        match judged {
            Some(Event::WrongNode) => {
                let kind = if open.is_some() { Event::TwoNodes } else { Event::WrongNode };
                let was = known.map(|home| self.load.nodes[home.node].as_str());
                let age = known.map(|home| home.seen.elapsed());
                let what = format!(
                    "{} was at {was:?} {age:?} ago, is at {name} by Envoy {envoy} ({header}), open at {open:?}",
                    self.session
                );
                ledger.violation(kind, what);
            }
            Some(event) => ledger.count(event),
            None => {}
        }
        matches!(judged, Some(Event::Provisional | Event::Retried))
    }

    fn lost(&self, envoy: usize, began: Instant, what: &str) {
        let ledger = &self.load.ledger;
        // A session may be on its way to a node where it was not before.
        if ledger.explains_failure(envoy, None, began) {
            ledger.count(Event::Failed);
        } else {
            let took = began.elapsed();
            ledger.violation(
                Event::FailedByBerth,
                format!("{} by Envoy {envoy} after {took:?}: {what}", self.session),
            );
        }
    }

    fn cut(&self, socket: &WebSocket, began: Instant, what: &str) {
        let ledger = &self.load.ledger;
        if ledger.explains_failure(self.envoy, Some(self.load.node(socket.node())), began) {
            ledger.count(Event::Cut);
        } else {
            let what = format!("{} at {} by Envoy {}: {what}", self.session, socket.node(), self.envoy);
            ledger.violation(Event::CutByBerth, what);
        }
    }

    /// From 0 to 1 (xorshift; Marsaglia 2003).
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

fn text(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Status(status) => status.to_string(),
        Refusal::Broken(failure) => failure.clone(),
    }
}

/// Kills an Envoy, and starts it again: all its sockets end, and are opened again once it is back.
pub(crate) async fn restart_envoy(load: &Load, world: &berth_harness::World, envoy: usize) {
    load.ledger.breaks(Part::Envoy(envoy));
    load.reach(envoy, None);
    world.envoy(envoy).restart().await;
    load.reach(envoy, Some(world.envoy(envoy).client()));
    load.ledger.mended(Part::Envoy(envoy));
}
