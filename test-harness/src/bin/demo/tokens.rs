//! The chapters of `--jwt`: tokens that lie, sessions whose id is renewed, keys that rotate, an issuer that is away.

use std::time::{Duration, Instant};

use berth_harness::Request;
use futures_util::{StreamExt, stream};

use crate::crowd::{By, CONCURRENCY};
use crate::identity::REFRESH;
use crate::issuer::TokenIssuer;
use crate::native;
use crate::stage::{Goal, LIMIT, Stage, names};

/// Sessions that somebody else would like to have, in four ways each.
const VICTIMS: usize = 50;
/// An unknown key has the issuer asked five seconds after the last look: longer than that it waits between publishing a key
/// and signing with it.
const PUBLISHED: Duration = Duration::from_secs(6);
/// A refresh of ten seconds fails in this time, whenever the last one was.
const AWAY: Duration = Duration::from_secs(12);

/// Tokens that are not to be believed.
pub(crate) async fn forge(stage: &mut Stage<'_>, issuer: &TokenIssuer) {
    stage.chapter(
        "strangers want in: by another's signature, with old tokens, with none, with the public key",
    );
    let mut forged: Vec<String> = Vec::new();
    for victim in &stage.crowd.sessions[..VICTIMS] {
        forged.extend(issuer.forged(victim));
    }
    let berth = refused(stage, &forged, By::Berth).await;
    let native = refused(stage, &forged, By::Native).await;
    stage.look().await;

    stage.promise(
        berth == (forged.len(), 0),
        &format!("{} of {} are refused with 401; {} reach a node", berth.0, forged.len(), berth.1),
    );
    stage.promise(
        stage.berth.moves() + stage.berth.failed() == 0,
        "the sessions that they named do not notice",
    );
    let summary = |(refused, reached): (usize, u64)| format!("{refused} × 401, {reached} at a node");
    stage.row("200 forged tokens", summary(berth), summary(native), "none reaches a node");
}

/// How many of these got 401, and how many requests reached a node.
async fn refused(stage: &Stage<'_>, tokens: &[String], by: By) -> (usize, u64) {
    let reached = || stage.world.nodes().iter().map(|node| node.requests()).sum::<u64>();
    let (client, before) = (stage.world.client(), reached());
    let requests: Vec<Request> = tokens
        .iter()
        .map(|token| by.way(client.get("/")).header("authorization", format!("Bearer {token}")))
        .collect();
    let answers = requests.into_iter().map(Request::try_send);
    let answers: Vec<_> = stream::iter(answers).buffered(CONCURRENCY).collect().await;
    let refused = answers.iter().flatten().filter(|answer| answer.status == 401).count();
    (refused, reached() - before)
}

/// Sessions that get a new id, as after a login.
pub(crate) async fn renew(stage: &mut Stage<'_>) {
    stage.chapter("200 sessions come, and get tokens with new ids, which name the former ones");
    let (guests, berth, native) = stage.guests("guest").await;
    let renewed = guests.renewed();
    let client = stage.world.client();
    let [berth_after, native_after] =
        [renewed.look(&client, By::Berth).await, renewed.look(&client, By::Native).await];
    let (_, pinned) = renewed.pins(stage.world, &berth).await;
    let moved = berth.moves(&berth_after).count();
    let elsewhere = berth.moves(&renewed.on_ring(&names(stage.world), native::algorithm())).count();
    stage.line(&format!("as new sessions, {elsewhere} would begin on another node"));

    stage.promise(
        moved + berth.failed() + berth_after.failed() == 0 && elsewhere > 0,
        &format!("each stays on its node: {moved} moved"),
    );
    stage.promise(
        pinned == renewed.len(),
        &format!("the state cluster has {pinned} of the {} new ids pinned there", renewed.len()),
    );
    let native = format!("{} moved, {} failed", native.moves(&native_after).count(), native_after.failed());
    stage.row("200 ids are renewed", format!("{moved} moved"), native, "none moves");
}

/// A new key, of another kind, while everybody is there.
pub(crate) async fn rotate(stage: &mut Stage<'_>, issuer: &TokenIssuer) {
    stage.chapter("the issuer rotates its keys: publishes a new one, signs with it, withdraws the old one");
    let victim = &stage.crowd.sessions[0];
    let old = issuer.token(victim);
    let all = names(stage.world);
    let goal = Goal { states: &[("active", all.len())], native: all.clone() };
    issuer.publish_next();
    stage.look_for(PUBLISHED, async |_| true).await;
    stage.line(&format!(
        "it signs with it after {PUBLISHED:?}; by themselves both look for new keys each {REFRESH}"
    ));
    issuer.sign_with_next();
    let signed = Instant::now();
    stage.watch(&goal).await;
    let native = match stage.native.failed() {
        0 => "0 refused".to_owned(),
        _ => format!("refused for {:.0} s", signed.elapsed().as_secs_f64()),
    };
    issuer.withdraw_former();
    let began = Instant::now();
    let is_refused =
        async |stage: &Stage<'_>| refused(stage, std::slice::from_ref(&old), By::Berth).await.0 == 1;
    let withdrawn = stage.look_for(Duration::ZERO, is_refused).await;
    let took = began.elapsed();
    stage.watch(&goal).await;

    stage.promise(
        stage.berth.failed() == 0,
        &format!("no request is refused, of {} sessions with tokens by the new key", stage.crowd.len()),
    );
    stage.promise(stage.berth.moves() == 0, &format!("no session moved: {} did", stage.berth.moved()));
    stage.promise(
        withdrawn,
        &format!("{:.1} s after the old key was withdrawn its tokens are refused", took.as_secs_f64()),
    );
    let berth = format!("{} moved, {} refused", stage.berth.moved(), stage.berth.failed());
    let native = format!("{} moved, {native}", stage.native.moved());
    stage.row("keys rotate", berth, native, "no session is refused");
}

/// The issuer is away for longer than the interval between refreshes of its keys.
pub(crate) async fn lose_issuer(stage: &mut Stage<'_>, issuer: &TokenIssuer) {
    stage.chapter("the issuer is away for longer than a refresh of its keys");
    let all = names(stage.world);
    let goal = Goal { states: &[("active", all.len())], native: all.clone() };
    let fetches = async |stage: &Stage<'_>, result: &str| {
        stage.world.envoy(0).metric("berth_jwks_fetches_total", &[("result", result)]).await
    };
    let failed = fetches(stage, "failed").await;
    issuer.leave().await;
    let noticed = stage.look_for(AWAY, async |stage| fetches(stage, "failed").await > failed).await;
    let (guests, berth, native) = stage.guests("late").await;
    let good = fetches(stage, "ok").await;
    issuer.come_back().await;
    let back = stage.look_for(Duration::ZERO, async |stage| fetches(stage, "ok").await > good).await;
    stage.watch(&goal).await;

    stage.promise(
        noticed && stage.berth.failed() + stage.berth.moves() == 0,
        "the keys cannot be fetched, and no session is refused or moved",
    );
    stage.promise(
        berth.failed() == 0,
        &format!(
            "{} new sessions with new tokens are served meanwhile: {} failed",
            guests.len(),
            berth.failed()
        ),
    );
    stage.promise(back, "when it is back its keys are fetched again");
    let summary = |known: usize, new: usize| format!("{known} known, {new} new refused");
    stage.row(
        "issuer away",
        summary(stage.berth.failed(), berth.failed()),
        summary(stage.native.failed(), native.failed()),
        "no session notices",
    );
}

impl Stage<'_> {
    /// All sessions go on asking, at least for this long, and until it is so. False if that takes too long.
    async fn look_for(&mut self, at_least: Duration, is_so: impl AsyncFn(&Stage<'_>) -> bool) -> bool {
        let began = Instant::now();
        loop {
            self.look().await;
            if began.elapsed() >= at_least && is_so(self).await {
                return true;
            }
            if began.elapsed() > LIMIT {
                return false;
            }
        }
    }
}
