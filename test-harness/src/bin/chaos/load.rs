//! Sessions that keep asking through all Envoys in turn, and each answer they got: the only thing that is judged.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use berth_harness::Client;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Sessions that are there before the fault.
pub(crate) const RESIDENTS: usize = 80;
/// Between two requests of one session.
const PACE: Duration = Duration::from_millis(250);
/// Between two new sessions, while there are any.
const BETWEEN_NEWCOMERS: Duration = Duration::from_millis(200);
/// Longer than any fault of the table lasts, and what parts make of it.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) session: usize,
    pub(crate) envoy: usize,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
    /// The node, or what went wrong.
    pub(crate) node: Result<usize, String>,
    /// The header `x-berth`, for reports.
    pub(crate) header: String,
}

pub(crate) struct Load {
    clients: Vec<Mutex<Option<Client>>>,
    nodes: HashMap<String, usize>,
    answers: Mutex<Vec<Answer>>,
}

/// The load's tasks; dropped with it.
pub(crate) struct Crowd {
    tasks: JoinSet<()>,
    sessions: usize,
}

impl Load {
    pub(crate) fn new(clients: Vec<Client>, nodes: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            clients: clients.into_iter().map(|client| Mutex::new(Some(client))).collect(),
            nodes: nodes.into_iter().enumerate().map(|(index, name)| (name, index)).collect(),
            answers: Mutex::default(),
        })
    }

    /// From now on this Envoy is reached so, or not asked at all.
    pub(crate) fn reach(&self, envoy: usize, client: Option<Client>) {
        *self.clients[envoy].lock().unwrap() = client;
    }

    pub(crate) fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap().clone()
    }

    /// Asks for a session through one Envoy, and notes the answer; one to a request that its Envoy took with it does not count.
    async fn ask(&self, session: usize, envoy: usize) {
        let client = self.clients[envoy].lock().unwrap().clone();
        let Some(client) = client else { return };
        let asked = Instant::now();
        let request = client.get("/").header("x-session-id", name(session)).within(LIMIT);
        let result = request.try_send().await;
        let header =
            result.as_ref().ok().and_then(|answer| answer.header("x-berth")).unwrap_or_default().to_owned();
        let node = match result {
            Ok(answer) if answer.status == 200 => Ok(self.nodes[answer.node()]),
            Ok(answer) => Err(format!("{} {:?}", answer.status, answer.body)),
            Err(_) if !self.is_reached_by(envoy, &client) => return,
            Err(failure) => Err(failure),
        };
        let answer = Answer { session, envoy, asked, answered: Instant::now(), node, header };
        self.answers.lock().unwrap().push(answer);
    }

    fn is_reached_by(&self, envoy: usize, client: &Client) -> bool {
        let now = self.clients[envoy].lock().unwrap();
        now.as_ref().is_some_and(|now| now.address() == client.address())
    }

    async fn keep_asking(self: Arc<Self>, session: usize) {
        // Not all at the same moment.
        sleep(PACE.mul_f64((session * 7 % 40) as f64 / 40.0)).await;
        for turn in session.. {
            self.ask(session, turn % self.clients.len()).await;
            sleep(PACE).await;
        }
    }
}

impl Crowd {
    /// The residents come.
    pub(crate) fn gather(load: &Arc<Load>) -> Self {
        let mut tasks = JoinSet::new();
        for session in 0..RESIDENTS {
            tasks.spawn(Arc::clone(load).keep_asking(session));
        }
        Self { tasks, sessions: RESIDENTS }
    }

    /// New sessions come for so long, and stay.
    pub(crate) async fn grow(&mut self, load: &Arc<Load>, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.tasks.spawn(Arc::clone(load).keep_asking(self.sessions));
            self.sessions += 1;
            sleep(BETWEEN_NEWCOMERS).await;
        }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions
    }

    pub(crate) async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

pub(crate) fn name(session: usize) -> String {
    format!("chaos-{session}")
}
