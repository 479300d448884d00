//! `berth serve`: settings, store, signals.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use berth_core::time::Millis;
use berth_state::settings::{Arguments, Settings};
use berth_state::store::{Memory, Redis, Store};
use berth_state::{Limits, router, server, tls};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The settings were wrong, as clap says it too.
const BAD_SETTINGS: u8 = 2;

/// Runs the service until it is told to stop.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let settings = match Settings::new(arguments, &|name| std::env::var(name).ok()) {
        Ok(settings) => settings,
        Err(faults) => {
            complain(&format!("{} faults in the settings\n  {}", faults.len(), faults.join("\n  ")));
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    log_as(&settings);
    let served = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(&settings)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: &Settings) -> Result<(), String> {
    let store: Arc<dyn Store> = match &settings.redis {
        Some(options) => Arc::new(Redis::new(options)?),
        None => Arc::new(Memory::new(settings.keeping, Arc::new(now))),
    };
    let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = server::listen(&settings.listen).await.map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (stop, stopping) = watch::channel(false);
    let limits = Limits {
        in_flight: settings.in_flight,
        polls: settings.polls,
        token: settings.token.clone(),
        stopping: stopping.clone(),
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = stop.send(true);
    });

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
    server::serve(listener, router(store, limits), tls, stopping).await;
    tracing::info!("stopped");
    Ok(())
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

/// Unlike `eprintln!`, survives a closed standard error.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "berth serve: {message}");
}
