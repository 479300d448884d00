//! What operators ask a running state service: `berth nodes`, `inspect`, `drain`, `set-state`, `forget`,
//! `end`, `import` and `watch`; and what nodes say of themselves: `berth leave` and `join`.
//!
//! Made for scripts as well as for people: `--format json` prints what the service answered, one object a line, and the
//! exit code says how it went. A session id is hashed here and never sent.
mod arguments;
mod asked;
mod client;
mod envoy;
mod help;
mod import;
mod itself;
mod join;
mod known;
mod leave;
mod origin;
mod pins;
mod show;
mod signals;
mod token;
mod undo;
mod walk;

use std::io::{self, Write};
use std::process::ExitCode;

use berth_core::time::Millis;
use berth_core::wire::{
    ApiRequest, ChangesReply, CountReply, EndReply, ForgetReply, NodeChange, NodeId, NodeReply, NodeState,
    NodesReply, SessionReply,
};
use berth_state::given::{Given, Parser};
use clap::Subcommand;

pub(crate) use self::arguments::Server;
use self::arguments::{Listing, Session};
use self::asked::Asked;
use self::client::{Client, Failure};
use self::import::Importing;
use self::itself::{ASK_AGAIN, Itself};
use self::join::Joining;
use self::leave::Patience;
pub(crate) use self::pins::Pins;
use self::show::Listed;
pub(crate) use self::show::duration;

/// There is no such session or node, or the service refused.
const REFUSED: u8 = 1;
/// The command line was wrong, as clap says it too.
const BAD_USAGE: u8 = 2;
/// The service cannot be reached, or its store cannot.
const UNREACHABLE: u8 = 3;
/// A node that leaves still had sessions at its deadline.
const REMAINING: u8 = 4;
/// Nothing is known of a node: it may have another name, or be in another pool.
const UNKNOWN: u8 = 5;
/// Added to the number of the signal that ended a command, as shells do.
const SIGNALLED: u8 = 128;

/// A little less than the longest that the service lets a poll wait.
const POLL_MS: u64 = 25_000;
/// Keys of the store in one call of `nodes --count`: a second or two of a Redis.
const COUNTED_PART: usize = 1_000_000;
const COUNTED_PARTS: usize = 10;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List nodes: what operators, proxies and they themselves said of them
    ///
    /// The state service knows only nodes of which something was said; every other node is active. With --admin the list has
    /// all nodes of a proxy, and the column ENVOY what its Envoy says: healthy, unhealthy, ejected, pending, degraded,
    /// draining, or absent (it has no such node).
    #[command(after_help = help::NODES)]
    Nodes {
        #[command(flatten)]
        listing: Listing,
        #[command(flatten)]
        server: Server,
    },
    /// Show where a session lives: its pin, its owner's state, its latest changes
    #[command(after_help = help::INSPECT)]
    Inspect {
        #[command(flatten)]
        session: Session,
        #[command(flatten)]
        server: Server,
    },
    /// Let a node keep its sessions but get no new ones, because it will leave
    #[command(after_help = help::DRAIN)]
    Drain {
        /// As proxies call it: ip:port, or the name of another kind of host, such as envoy://listener/endpoint
        #[arg(value_parser = Parser::new(arguments::node))]
        node: Given<NodeId>,
        /// Why
        #[arg(long)]
        note: Option<String>,
        /// Also if nothing is known of such a node in this pool: it is to come, or has no sessions yet
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Forget what is recorded of a node that is gone for good, so that the next one at its address begins with nothing
    #[command(after_help = help::FORGET)]
    Forget {
        /// As proxies call it: ip:port, or the name of another kind of host, such as envoy://listener/endpoint
        #[arg(value_parser = Parser::new(arguments::node))]
        node: Given<NodeId>,
        #[command(flatten)]
        server: Server,
    },
    /// Set a node's state: active, degraded, draining or standby
    #[command(after_help = help::SET_STATE)]
    SetState {
        /// As proxies call it: ip:port, or the name of another kind of host, such as envoy://listener/endpoint
        #[arg(value_parser = Parser::new(arguments::node))]
        node: Given<NodeId>,
        /// active, degraded, draining or standby
        #[arg(value_parser = Parser::new(arguments::state))]
        state: Given<NodeState>,
        /// Why; empty removes the note
        #[arg(long)]
        note: Option<String>,
        /// Also if nothing is known of such a node in this pool: it is to come, or has no sessions yet
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        server: Server,
    },
    /// End a session, as at logout: its next request is a new session's
    #[command(after_help = help::END)]
    End {
        #[command(flatten)]
        session: Session,
        #[command(flatten)]
        server: Server,
    },
    /// Before a node stops: let it get no new sessions, and wait until it has no sessions
    ///
    /// For the preStop hook of a pod. The node says of itself that it is draining, in each pool; its next start ends that, if it
    /// says so (berth join, or its own boot id). It goes on serving its sessions meanwhile.
    #[command(after_help = help::LEAVE)]
    Leave {
        #[command(flatten)]
        itself: Itself,
        #[command(flatten)]
        patience: Patience,
    },
    /// After a node has started: end what was said of the former one at its address
    ///
    /// For the postStart hook of a pod whose program does not report its boot id itself. Sessions of the former node at this
    /// address are marked: their next request brings the notice "restore". A service that does not answer, or refuses, is a
    /// warning.
    #[command(after_help = help::JOIN)]
    Join {
        #[command(flatten)]
        itself: Itself,
        #[command(flatten)]
        joining: Joining,
    },
    /// Pin sessions to the nodes where another balancer has them, before Berth takes over
    ///
    /// Each line is SESSION NODE, by a blank or a tab; lines with - in place of one of them are passed over. An id with blanks
    /// needs the tab. A session that has a pin keeps it, unless --replace is given. Reads to the end or to a signal, so a log
    /// that is followed is imported as it grows; if the service goes away, the lines wait for it.
    #[command(after_help = help::IMPORT)]
    Import {
        #[command(flatten)]
        importing: Importing,
        #[command(flatten)]
        server: Server,
    },
    /// Follow changes from now on: rehomed and ended sessions, nodes
    #[command(after_help = help::WATCH)]
    Watch {
        /// Stop after so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        server: Server,
    },
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(ask(command));
            // A name that is still being looked up is not waited for: the deadline of a hook has passed.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::Unreachable(error.to_string())),
    };
    let Err(failure) = result else { return ExitCode::SUCCESS };
    let code = match &failure {
        // The reader has read enough, for example `head`.
        Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Failure::Output(_) | Failure::Refused(_) | Failure::Denied(_) | Failure::Absent(_) => REFUSED,
        Failure::Usage(_) => BAD_USAGE,
        Failure::Unreachable(_) | Failure::Busy(_) => UNREACHABLE,
        Failure::Remaining(_) => REMAINING,
        Failure::Unknown(_) => UNKNOWN,
        Failure::Stopped(number, _) => SIGNALLED + number,
    };
    let _ = writeln!(io::stderr(), "berth: {failure}");
    ExitCode::from(code)
}

async fn ask(command: &Command) -> Result<(), Failure> {
    let mut faults = Vec::new();
    match command {
        Command::Nodes { listing, server } => {
            let (asked, admin) = (Asked::new(server, &mut faults), listing.client(&server.pool, &mut faults));
            let asked = asked.filter(|_| faults.is_empty()).ok_or(Failure::Usage(faults))?;
            list_nodes(&asked, admin, listing.count).await
        }
        Command::Inspect { session, server } => {
            let (asked, key) = (Asked::new(server, &mut faults), session.key(server, &mut faults));
            let (Some(asked), Some(key)) = (asked, key) else { return Err(Failure::Usage(faults)) };
            let reply: SessionReply = asked.send(&ApiRequest::session(asked.pool(), key)).await?;
            asked.print(&reply, show::session)
        }
        Command::Drain { node, note, force, server } => {
            let state = Given { place: node.place.clone(), value: Ok(NodeState::Draining) };
            set_state(node, &state, note, *force, server).await
        }
        Command::Forget { node, server } => {
            let (asked, node) = (Asked::new(server, &mut faults), node.clone().take(&mut faults));
            let (Some(asked), Some(node)) = (asked, node) else { return Err(Failure::Usage(faults)) };
            let reply: ForgetReply = asked.send(&ApiRequest::forget_node(asked.pool(), &node)).await?;
            say_if_lossy(reply.durable);
            asked.print(&reply, |_| format!("forgot {node}\n"))
        }
        Command::SetState { node, state, note, force, server } => {
            set_state(node, state, note, *force, server).await
        }
        Command::End { session, server } => {
            let (asked, key) = (Asked::new(server, &mut faults), session.key(server, &mut faults));
            let (Some(asked), Some(key)) = (asked, key) else { return Err(Failure::Usage(faults)) };
            let reply: EndReply = asked.send(&ApiRequest::end(asked.pool(), key, Millis(0))).await?;
            say_if_lossy(reply.durable);
            asked.print(&reply, |_| format!("ended {key}\n"))
        }
        Command::Leave { itself, patience } => leave::leave(itself, patience).await,
        Command::Join { itself, joining } => join::join(itself, joining).await,
        Command::Import { importing, server } => import::run(importing, server).await,
        Command::Watch { limit, server } => {
            let asked = Asked::new(server, &mut faults).ok_or(Failure::Usage(faults))?;
            watch(&asked, *limit).await
        }
    }
}

async fn list_nodes(asked: &Asked, admin: Option<(Client, String)>, counts: bool) -> Result<(), Failure> {
    let mut reply: NodesReply = asked.send(&ApiRequest::nodes(asked.pool())).await?;
    reply.nodes.retain(|record| !record.forgotten);
    let now = reply.now_ms;
    let (mut listed, mut note) = match admin {
        None => (reply.nodes.into_iter().map(Listed::from).collect(), show::ONLY_RECORDED.to_owned()),
        Some((admin, cluster)) => {
            (show::join(envoy::nodes(&admin, &cluster).await?, reply.nodes), String::new())
        }
    };
    if counts {
        note += &show::count(&mut listed, count(asked).await?);
    }
    asked.print_all(&listed, |listed| show::nodes(listed, now) + &note)
}

/// All sessions, or those in so many parts of the store. A part that fails ends it with a sample.
async fn count(asked: &Asked) -> Result<CountReply, Failure> {
    let mut all = CountReply::default();
    for part in 0..COUNTED_PARTS {
        let counts = ApiRequest::counts(asked.pool(), all.next.as_ref(), COUNTED_PART);
        let mut reply: CountReply = match asked.send(&counts).await {
            Err(_) if part > 0 => break,
            reply => reply?,
        };
        if part == 0 && !reply.complete && reply.next.is_none() {
            reply = asked.send(&ApiRequest::counts(asked.pool(), None, walk::MOST)).await?;
        }
        all.pins += reply.pins;
        for (node, sessions) in reply.nodes {
            *all.nodes.entry(node).or_default() += sessions;
        }
        (all.complete, all.next) = (reply.complete, reply.next);
        if all.next.is_none() {
            break;
        }
    }
    Ok(all)
}

async fn set_state(
    node: &Given<NodeId>,
    state: &Given<NodeState>,
    note: &Option<String>,
    force: bool,
    server: &Server,
) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let asked = Asked::new(server, &mut faults);
    let (node, state) = (node.clone().take(&mut faults), state.clone().take(&mut faults));
    let (Some(asked), Some(node), Some(state)) = (asked, node, state) else {
        return Err(Failure::Usage(faults));
    };
    if !force {
        known::expect(&asked, &node).await?;
    }
    let change = NodeChange { state: Some(state), note: note.clone(), ..NodeChange::default() };
    let NodeReply { record, durable } =
        asked.send(&ApiRequest::change_node(asked.pool(), &node, &change)).await?;
    // Any pool may be written to: one that no proxy uses takes a drain in silence.
    if record.version == 1 && !server.names_pool() {
        let pool = &asked.pool;
        let _ =
            writeln!(io::stderr(), "berth: in pool {pool}, as neither --pool nor BERTH_POOL names another");
    }
    say_if_lossy(durable);
    asked.print(&Listed::from(record), |listed| show::nodes(std::slice::from_ref(listed), None))
}

/// The service waits for replicas, and none has confirmed this change: it is made, and its operator has to know.
fn say_if_lossy(durable: Option<bool>) {
    if durable == Some(false) {
        let _ = writeln!(
            io::stderr(),
            "berth: done, but no replica of the store has confirmed it: a failover may undo it"
        );
    }
}

/// Prints changes until the limit. If the service goes away after its first answer, this waits until the service is back:
/// with Redis, the restarted service continues from the same position.
async fn watch(asked: &Asked, limit: Option<u64>) -> Result<(), Failure> {
    let mut left = limit.unwrap_or(u64::MAX);
    let (mut after, mut is_away) = (None, false);
    while left > 0 {
        let poll = ApiRequest::changes(asked.pool(), after.as_ref(), POLL_MS);
        let reply: ChangesReply = match asked.send(&poll).await {
            Ok(reply) => reply,
            Err(Failure::Unreachable(reason) | Failure::Busy(reason)) if after.is_some() => {
                if !is_away {
                    let _ = writeln!(io::stderr(), "berth: {reason}; trying again each second");
                }
                is_away = true;
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if is_away {
            let _ = writeln!(io::stderr(), "berth: the service answers again");
        }
        is_away = false;
        if reply.resync {
            let _ = writeln!(io::stderr(), "berth: some changes were missed");
        }
        for event in reply.events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            asked.print(event, show::event)?;
            left -= 1;
        }
        after = Some(reply.cursor);
    }
    Ok(())
}
