//! `berth serve`: settings, store, signals.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_core::time::Millis;
use berth_state::connections::{Bounds, Connections};
use berth_state::given::Fault;
use berth_state::issuer::Issuer;
use berth_state::settings::{CommandLine, Settings};
use berth_state::store::{Memory, Redis, Store};
use berth_state::{Access, Limits, router, secrets, server, tls};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Connections to Redis, files that are read, and the runtime's own.
const OTHER_FILES: usize = 128;
/// The settings were wrong, as clap says it too.
const BAD_SETTINGS: u8 = 2;

/// Runs the service until a signal stops it.
pub(crate) fn run(command_line: &CommandLine) -> ExitCode {
    let settings = match Settings::read(command_line) {
        Ok(settings) => settings,
        Err(faults) => return bad_settings(&faults),
    };
    log_as(&settings);
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(serve(&settings)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(faults)) => bad_settings(&faults),
        Err(Failure::System(error)) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What the settings name cannot be used.
    #[error("the settings cannot be used")]
    Settings(Vec<Fault>),
    #[error(transparent)]
    System(#[from] io::Error),
}

async fn serve(settings: &Settings) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let store: Option<Arc<dyn Store>> = match &settings.redis {
        Some(options) => match Redis::open(options) {
            Ok(store) => Some(Arc::new(store)),
            Err(fault) => {
                faults.push(fault);
                None
            }
        },
        None => Some(Arc::new(Memory::new(settings.keeping, Arc::new(now)))),
    };
    let tls = settings.tls.as_ref().map(tls::acceptor).transpose();
    let issuer = settings.jwt.as_ref().map(|jwt| Issuer::open(&jwt.jwks, jwt.policy.clone())).transpose();
    let tokens = settings.token_file.as_deref().map(secrets::tokens).transpose();
    let tls = tls.map_err(|all| faults.extend(all));
    let tokens = tokens.map_err(|all| faults.extend(all));
    let issuer = issuer.map_err(|fault| faults.push(Fault::new("jwks", fault.to_string())));
    let (Some(store), Ok(tls), Ok(tokens), Ok(issuer)) = (store, tls, tokens, issuer) else {
        return Err(Failure::Settings(faults));
    };
    let listener = server::listen(&settings.listen.to_string()).await?;
    let address = listener.local_addr()?;
    let (leaving, stopping) = told_to_stop(settings.stop_delay)?;
    let connections = Connections::new(Bounds { all: settings.connections, ..Bounds::default() });
    allow_files(settings.connections);
    let limits = Limits {
        in_flight: settings.in_flight,
        polls: settings.polls,
        pools: settings.pools,
        new_sessions: settings.new_sessions,
        access: Access {
            token: settings.token.clone(),
            tokens,
            certificates: settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
            issuer,
        },
        connections: Arc::clone(&connections),
        leaving,
        stopping: stopping.clone(),
    };

    let kind = match &settings.redis {
        None => "memory",
        Some(options) if options.cluster => "redis cluster",
        Some(_) => "redis",
    };
    let quorum = settings.redis.as_ref().is_some_and(|options| options.quorum);
    tracing::info!(%address, tls = tls.is_some(), store = kind, quorum, ttl_ms = settings.keeping.ttl.0, "serving");
    if let Err(error) = store.ready().await {
        tracing::warn!(%error, "the store is not ready yet");
    }
    server::serve(listener, router(store, limits), tls, connections, stopping).await;
    tracing::info!("stopped");
    Ok(())
}

/// Raises the number of open files as far as it may be: each connection is one, and the usual 1,024 are fewer than the
/// connections that the service takes.
fn allow_files(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let needed = (connections + OTHER_FILES) as u64;
    limit.current = limit.maximum.map(|maximum| maximum.max(limit.current.unwrap_or(0)));
    let _ = setrlimit(Resource::Nofile, limit);
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < needed) {
        tracing::warn!(
            files,
            needed,
            "fewer files may be open than --connections needs: raise the limit (ulimit -n)"
        );
    }
}

/// Turns signals into two notices: the service will leave, and then, after the delay or another signal, the service stops.
fn told_to_stop(delay: Duration) -> io::Result<(watch::Receiver<bool>, watch::Receiver<bool>)> {
    let ((leave, leaving), (stop, stopping)) = (watch::channel(false), watch::channel(false));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let soon = tokio::select! {
            _ = terminate.recv() => true,
            _ = interrupt.recv() => false,
        };
        let _ = leave.send(true);
        if soon && !delay.is_zero() {
            tracing::info!(delay_ms = delay.as_millis() as u64, "no longer ready, stopping after the delay");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        tracing::info!("stopping");
        let _ = stop.send(true);
    });
    Ok((leaving, stopping))
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// To standard error, so that nothing has to be configured in a container.
fn log_as(settings: &Settings) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(settings.log_level)
        .with_writer(io::stderr)
        .with_target(false);
    if settings.log_json {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.with_ansi(false).init();
    }
}

fn bad_settings(faults: &[Fault]) -> ExitCode {
    let count = match faults.len() {
        1 => "1 fault".to_owned(),
        count => format!("{count} faults"),
    };
    let faults: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
    complain(&format!("{count} in the settings{faults}"));
    ExitCode::from(BAD_SETTINGS)
}

/// Unlike `eprintln!`, survives a closed standard error.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "berth serve: {message}");
}
