//! Leads connections elsewhere when certificates or the password were replaced, or Sentinel has made another server the primary.
//!
//! New secrets are tried at each server, and used there once it accepts them; until then the old connections serve, which are
//! open and know nothing of the new secrets. So a password may be changed in the servers before the file or after it, in one
//! after the other, and no call is lost to the change. Another primary is tried first, and used once it takes writes.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::join_all;
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
    let renewal = Renewal { options: options.clone(), secrets, used, former: None, routes, logged: None };
    runtime.spawn(renewal.run(url));
}

struct Renewal {
    options: Options,
    secrets: watch::Receiver<Arc<Secrets>>,
    /// The newest that could be read.
    used: Arc<Secrets>,
    /// Those before, which some servers may still want.
    former: Option<Arc<Secrets>>,
    routes: Vec<Weak<Mutex<Route>>>,
    /// The failure that the log has.
    logged: Option<String>,
}

impl Renewal {
    async fn run(mut self, url: Option<SentinelUrl>) {
        let mut sentinels = url.as_ref().map(|url| Sentinels::new(url, &self.used, None));
        let mut primary: Option<String> = None;
        loop {
            let mut faults = Vec::new();
            let secrets = Arc::clone(&self.secrets.borrow());
            if !Arc::ptr_eq(&secrets, &self.used) {
                let options = self.options_at(url.as_ref(), primary.as_deref());
                faults.extend(self.renew(&options, secrets).err());
                sentinels = url.as_ref().map(|url| Sentinels::new(url, &self.used, self.former.as_deref()));
            }
            let look = async {
                match &mut sentinels {
                    None => Ok(None),
                    Some(sentinels) => sentinels.primary(primary.as_deref()).await.map(Some),
                }
            };
            let (named, refusals) = tokio::join!(look, self.advance());
            faults.extend(refusals);
            match named {
                Err(why) => faults.push(why),
                Ok(named) if named == primary => {}
                Ok(named) => {
                    let options = self.options_at(url.as_ref(), named.as_deref());
                    let address = named.as_deref().unwrap_or_default();
                    match self.lead(&options).await {
                        Ok(()) => {
                            tracing::info!(primary = address, "new connections to the store are used");
                            primary = named;
                        }
                        Err(why) => {
                            faults.push(format!("{address}, which the Sentinels name as primary: {why}"));
                        }
                    }
                }
            }
            match faults.is_empty() {
                true => self.logged = None,
                false => self.fail(faults.join("; ")),
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

    fn options_at(&self, url: Option<&SentinelUrl>, primary: Option<&str>) -> Options {
        match (url, primary) {
            (Some(url), Some(address)) => url.at(&self.options, address),
            _ => self.options.clone(),
        }
    }

    /// As they are now.
    fn led(&self) -> Vec<Route> {
        self.routes.iter().filter_map(Weak::upgrade).map(|route| lock(&route).clone()).collect()
    }

    /// Has new secrets tried from now on.
    fn renew(&mut self, options: &Options, secrets: Arc<Secrets>) -> Result<(), String> {
        let first = self.led().into_iter().next();
        let servers = first.as_ref().map(Route::servers).unwrap_or_default();
        // A server that is new may want those that another accepted last.
        let was_accepted = servers.is_empty() || servers.iter().any(|(_, access)| !access.is_behind());
        if let Some(first) = first {
            first.renew(options, &secrets).map_err(|error| error.to_string())?;
        }
        let replaced = std::mem::replace(&mut self.used, secrets);
        if was_accepted || self.former.is_none() {
            self.former = Some(replaced);
        }
        Ok(())
    }

    /// Tries the newest secrets at each server that does not use them, and leaves connections with others. Returns why servers
    /// refuse them.
    async fn advance(&self) -> Vec<String> {
        let routes = self.led();
        let servers = routes.first().map(Route::servers).unwrap_or_default();
        let tries =
            servers.into_iter().filter(|(_, access)| access.is_behind()).map(|(name, access)| async move {
                match timeout(TRIED_FOR, access.advance()).await {
                    Ok(Ok(())) => Ok(name),
                    Ok(Err(error)) => Err(format!("{name}: {error}")),
                    Err(_) => Err(format!("{name}: no answer")),
                }
            });
        let (mut accepted, mut refusals) = (Vec::new(), Vec::new());
        for tried in join_all(tries).await {
            match tried {
                Ok(name) => accepted.push(name),
                Err(why) => {
                    refusals.push(format!("what is in the files now is not accepted yet: {why}"));
                }
            }
        }
        if !accepted.is_empty() {
            tracing::info!(?accepted, "new connections to the store are used");
        }
        join_all(routes.iter().map(Route::refresh)).await;
        refusals
    }

    /// Replaces the routes, if the first of the new ones takes writes.
    async fn lead(&self, options: &Options) -> Result<(), String> {
        let new = Route::all(options, &self.used, self.former.as_deref(), self.routes.len())
            .map_err(|error| error.to_string())?;
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
