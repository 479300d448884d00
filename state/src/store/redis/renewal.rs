//! Leads connections elsewhere when certificates or the password were replaced, or Sentinel has made another server the primary.
//!
//! New connections are tried first and used once they answer: until then the old ones serve, which are open and know nothing of
//! the new secrets. So a password may be changed in Redis before the file or after it, and no call is lost to the change.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::Route;
use super::options::{Options, Secrets};
use super::sentinel::{SentinelUrl, Sentinels};
use crate::lock::lock;

/// Between two looks at the Sentinels, and two attempts to use what is new. Much shorter than Sentinel takes to find that a
/// primary is gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A new connection that takes longer is tried again.
const TRIED_FOR: Duration = Duration::from_secs(2);

/// Keeps these routes up to date as long as anybody has one. There may be nothing to do.
pub(super) fn keep(
    options: &Options,
    secrets: watch::Receiver<Arc<Secrets>>,
    used: Arc<Secrets>,
    routes: Vec<Weak<Mutex<Route>>>,
) {
    let url = SentinelUrl::of(options);
    // Without files there is no sender.
    let is_constant = secrets.has_changed().is_err();
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if url.is_none() && is_constant {
        return;
    }
    let renewal = Renewal { options: options.clone(), secrets, routes, logged: None };
    runtime.spawn(renewal.run(url, used));
}

struct Renewal {
    options: Options,
    secrets: watch::Receiver<Arc<Secrets>>,
    routes: Vec<Weak<Mutex<Route>>>,
    /// The failure that the log has.
    logged: Option<String>,
}

impl Renewal {
    async fn run(mut self, url: Option<SentinelUrl>, mut used: Arc<Secrets>) {
        let mut sentinels = url.as_ref().map(|url| Sentinels::new(url, &used));
        let mut primary: Option<String> = None;
        loop {
            let secrets = Arc::clone(&self.secrets.borrow());
            let has_new_secrets = !Arc::ptr_eq(&secrets, &used);
            if let (Some(url), true) = (&url, has_new_secrets) {
                sentinels = Some(Sentinels::new(url, &secrets));
            }
            let named = match &mut sentinels {
                None => Ok(None),
                Some(sentinels) => sentinels.primary(primary.as_deref()).await.map(Some),
            };
            match named {
                Err(why) => self.fail(why),
                Ok(named) if named == primary && !has_new_secrets => self.logged = None,
                Ok(named) => {
                    let options = match (&url, &named) {
                        (Some(url), Some(address)) => url.at(&self.options, address),
                        _ => self.options.clone(),
                    };
                    match self.lead(&options, &secrets).await {
                        Ok(()) => {
                            let primary_is = named.as_deref();
                            tracing::info!(primary = primary_is, "new connections to the store are used");
                            (primary, used, self.logged) = (named, secrets, None);
                        }
                        Err(why) => self.fail(match &named {
                            Some(address) => format!("{address}, which the Sentinels name as primary: {why}"),
                            None => {
                                format!("new connections to the store, with what is in the files now: {why}")
                            }
                        }),
                    }
                }
            }
            if self.routes.iter().all(|route| route.strong_count() == 0) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                // Whether there is a sender does not matter any more.
                Ok(()) = self.secrets.changed() => {}
            }
        }
    }

    /// Replaces the routes, if the first of the new ones answers.
    async fn lead(&self, options: &Options, secrets: &Secrets) -> Result<(), String> {
        let new = Route::all(options, secrets, self.routes.len()).map_err(|error| error.to_string())?;
        if let Some(first) = new.first() {
            match timeout(TRIED_FOR, first.tries(TRIED_FOR)).await {
                Ok(answer) => answer.map_err(|error| error.to_string())?,
                Err(_) => return Err("no answer".to_owned()),
            }
        }
        for (route, new) in self.routes.iter().zip(new) {
            if let Some(route) = route.upgrade() {
                *lock(&route) = new;
            }
        }
        Ok(())
    }

    /// Says it once; and those who ask, as long as there is nothing that they could be led to.
    fn fail(&mut self, why: String) {
        for route in self.routes.iter().filter_map(Weak::upgrade) {
            if let Route::Unknown(known) = &mut *lock(&route) {
                known.clone_from(&why);
            }
        }
        if self.logged.as_ref() != Some(&why) {
            tracing::warn!("{why}");
            self.logged = Some(why);
        }
    }
}
