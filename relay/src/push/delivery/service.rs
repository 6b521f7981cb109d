//! The one way to the push services: it chooses the App's service, and tries again until the deadline.
//!
//! Invariant: no push is tried after its deadline, and no wait goes past it; no lock is held while a push waits, so
//! that one App's or one service's trouble delays no other.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep_until};

use super::copies::{self, Flight, Settled, Tried};
use super::last_try;
use crate::domain::PushOutcome;
use crate::log;
use crate::metrics::Metrics;
use crate::push::apns::{self, Apns, Environment, Signers};
use crate::push::connection::attempt::Attempt;
use crate::push::connection::backoff::{Backoff, RETRY};
use crate::push::connection::departure::Departure;
use crate::push::connection::http2::Channel;
use crate::push::connection::network::{Network, Nowhere};
use crate::push::connection::not_before::PROBE_EVERY;
use crate::push::connection::retries::{Retries, longest_pause};
use crate::push::fcm::{self, Fcm};
use crate::push::health::reasons::is_of_configuration;
use crate::push::health::token_refusals::is_of_a_token;
use crate::push::health::{NOT_IN_TIME, Record, Report, Trouble};
use crate::push::recipient::{Fixed, Recipient};
use crate::push::setup::SetupError;
use crate::push::setup::reusable::Made;
use crate::push::webpush::{self, WebPush};
use crate::push::{Event, Push, Verdict, payload};
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

/// Copies of what is no call that a service may have taken, at most.
const ALERT_COPIES_MAX: u32 = 3;

/// The push services of one App.
#[derive(Clone, Debug, Default)]
pub struct AppPush {
    /// Apple's, when the App has an iOS side.
    pub apns: Option<apns::Settings>,
    /// Google's, when the App has an Android side.
    pub fcm: Option<fcm::Settings>,
    /// The service of browsers, and of phones without Google.
    pub webpush: Option<webpush::Settings>,
}

/// The outcome of one push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The verdict on it. [`Verdict::Retry`] here means that no further try fits before the deadline: for this
    /// push it is the end. A call's comes right before its deadline, and not earlier.
    pub verdict: Verdict,
    /// How often it was tried; 0 when it never left.
    pub attempts: u32,
    /// How many copies of it the service may have taken.
    pub copies: u32,
    /// From the call of [`PushService::deliver`] to the verdict.
    pub elapsed: Duration,
    /// Whether the services that gave the verdict are in force still: it says nothing of others.
    pub is_in_force: bool,
}

/// Delivers pushes; cheap to clone.
#[derive(Clone)]
pub struct PushService(Arc<InForce>);

/// The services that are used, and the news that others are.
struct InForce {
    mode: ArcSwap<Mode>,
    changed: Notify,
}

pub(crate) enum Mode {
    Sent(HashMap<Box<str>, App>),
    Printed,
}

#[derive(Default)]
pub(crate) struct App {
    pub(crate) apns: Option<Made<apns::Settings, Apns>>,
    pub(crate) fcm: Option<Made<fcm::Settings, Fcm>>,
    pub(crate) webpush: Option<Made<webpush::Settings, WebPush>>,
}

impl App {
    fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        let apns = self.apns.iter().flat_map(|apns| apns.records());
        let others = self.fcm.iter().map(|fcm| fcm.record()).chain(self.webpush.iter().map(|webpush| webpush.record()));
        apns.chain(others)
    }
}

impl PushService {
    /// Reads the keys of `apps` (each App's id, which for APNs is its bundle id, and its services). Nothing is dialled
    /// before the first push. How each service stands is told by `metrics` as well.
    ///
    /// # Errors
    /// Every service that cannot be set up, each with its reason.
    pub fn new(
        network: Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SetupError>> {
        let service = Self::built(&network, apps, metrics, &HashMap::new())?;
        service.mode().note_in_force(true);
        Ok(service)
    }

    /// As [`Self::new`]; but what has the same settings and files is that of `self`, with its connections, its tokens and how it
    /// stands. Nothing is told of what is new before [`Self::become_like`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn renewed(
        &self,
        network: Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SetupError>> {
        match &*self.mode() {
            Mode::Sent(earlier) => Self::built(&network, apps, metrics, earlier),
            Mode::Printed => Self::built(&network, apps, metrics, &HashMap::new()),
        }
    }

    fn built(
        network: &Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
        earlier: &HashMap<Box<str>, App>,
    ) -> Result<Self, Vec<SetupError>> {
        let mut signers = Signers::beside(earlier.values().filter_map(|app| app.apns.as_deref()));
        let mut problems = Vec::new();
        let mut ready = HashMap::with_capacity(apps.len());
        for (id, settings) in apps {
            let parts = Parts { earlier: earlier.get(&id), signers: &mut signers, network, metrics };
            let app = build(&id, &settings, parts, &mut problems);
            ready.insert(id, app);
        }
        if problems.is_empty() { Ok(Self::of(Mode::Sent(ready))) } else { Err(problems) }
    }

    /// Takes the services and keys of another one from now on; what is under way goes on as it began, and what waits to be tried again, and was certainly
    /// not taken, is tried by these. So is the next copy of a call's push that may be taken twice.
    pub fn become_like(&self, other: &Self) {
        let mode = other.mode();
        self.0.mode.swap(Arc::clone(&mode)).note_in_force(false);
        mode.note_in_force(true);
        self.0.changed.notify_waiters();
    }

    pub(crate) fn mode(&self) -> Arc<Mode> {
        self.0.mode.load_full()
    }

    fn of(mode: Mode) -> Self {
        Self(Arc::new(InForce { mode: ArcSwap::from_pointee(mode), changed: Notify::new() }))
    }

    /// Prints each push to the log instead of sending it, and calls it accepted: for a relay without a configuration.
    pub fn printed() -> Self {
        Self::of(Mode::Printed)
    }

    /// Delivers `push` to `target` of the App `app`: again and again where a push may be repeated, with pauses that
    /// grow and that the service may lengthen, until the push's deadline. It may be dropped at any time.
    pub async fn deliver(&self, app: &str, target: &PushTarget, push: &Push) -> Delivery {
        self.deliver_measured(app, target, push, push.until(), &Departure::unmeasured(), &Fixed).await
    }

    /// Likewise, but it is tried until `until` at most, when it ends as [`Verdict::Retry`]: it may be worth delivering for longer, by a service that has taken it. `departure` is
    /// told when it leaves, and `recipient` asked before it is tried again.
    pub async fn deliver_measured(
        &self,
        app: &str,
        target: &PushTarget,
        push: &Push,
        until: std::time::Instant,
        departure: &Departure,
        recipient: &dyn Recipient,
    ) -> Delivery {
        let started = Instant::now();
        let deadline = Instant::from_std(push.until().min(until));
        let mut earlier = Earlier::default();
        let terms = Terms { event: push.event, of: Some((push, target)), deadline, departure, recipient };
        let (Settled { verdict, attempts, copies }, is_in_force) = loop {
            // Told of whatever comes after this, though it is not polled yet: before it is looked which are in force.
            let changed = pin!(self.0.changed.notified());
            let mode = self.mode();
            match self.deliver_by(&mode, app, target, push, terms, Resumption { earlier, changed }).await {
                Ok(ended) => break (ended, Arc::ptr_eq(&mode, &self.mode())),
                Err(tried) => earlier = tried,
            }
        };
        let verdict = match verdict {
            // The push was tried for long enough; the device would still be told something that it does not know.
            Verdict::TooLate if push.until() > Instant::now().into_std() => Verdict::Retry { after: None },
            verdict => verdict,
        };
        Delivery { verdict, attempts, copies, elapsed: started.elapsed(), is_in_force }
    }

    /// Delivers by these services. An error: others are in force before it is settled.
    async fn deliver_by(
        &self,
        mode: &Mode,
        app: &str,
        target: &PushTarget,
        push: &Push,
        terms: Terms<'_>,
        from: Resumption<'_, '_>,
    ) -> Result<Settled, Earlier> {
        let Mode::Sent(apps) = mode else {
            terms.departure.note();
            return Ok(Settled { verdict: print(app, target, push), attempts: 1, copies: 1 });
        };
        let run = match DeliveryRun::new(apps.get(app), target, push) {
            Ok(run) => run,
            // What earlier services may have taken may ring.
            Err(_) if from.earlier.lost > 0 && push.event == Event::Call => {
                let Earlier { attempts, lost: copies, .. } = from.earlier;
                return Ok(Settled { verdict: Verdict::Unconfirmed, attempts, copies });
            }
            Err(verdict) => return Ok(Settled { verdict, attempts: from.earlier.attempts, copies: from.earlier.lost }),
        };
        let record = Arc::clone(run.record());
        let _waiting = record.wait();
        // A reload that leaves these services as they are leaves the push the time that it has waited for them.
        let started = match &from.earlier.since {
            Some((of, since)) if Arc::ptr_eq(of, &record) => *since,
            _ => Instant::now(),
        };
        let ended = run.run(terms, from).await;
        let Ended { settled, limited } =
            ended.map_err(|tried| Earlier { since: Some((Arc::clone(&record), started)), ..tried })?;
        if matches!(settled.verdict, Verdict::Retry { .. } | Verdict::TooLate)
            && terms.departure.said().is_none()
            && let Some(reason) = record.trouble_since(started)
        {
            // No answer came: then it is what keeps all from it.
            terms.departure.say(reason);
        }
        if push.event == Event::Call && !limited && not_in_time(&settled.verdict, started) {
            record.trouble(Trouble::grave(NOT_IN_TIME), "");
        }
        match &settled.verdict {
            Verdict::Accepted => record.took(&target.token),
            Verdict::Refused { reason } if is_of_a_token(reason) => record.token_refused(reason, &target.token),
            _ => {}
        }
        Ok(settled)
    }

    /// Counts how a push ended for its app.
    pub fn count(&self, app: &str, provider: Provider, outcome: PushOutcome) {
        if let Some(record) = self.record(app, provider) {
            record.count(outcome);
        }
    }

    /// This token of this app and environment is called bad, and is not believed to be.
    pub fn note_doubted_token(&self, app: &str, provider: Provider, token: &PushToken) {
        if let Some(record) = self.record(app, provider) {
            record.token_refused("BadDeviceToken", token);
        }
    }

    /// How each service of each app stands, in the order of their names.
    pub fn health(&self) -> Vec<Report> {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return Vec::new() };
        let mut reports: Vec<_> = apps.values().flat_map(App::records).map(|record| record.report()).collect();
        reports.sort_by(|one, other| (&one.app, one.service).cmp(&(&other.app, other.service)));
        reports
    }

    fn record(&self, app: &str, provider: Provider) -> Option<Arc<Record>> {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return None };
        let app = apps.get(app)?;
        let record = match provider {
            Provider::ApnsProduction => app.apns.as_ref().map(|apns| apns.record(Environment::Production)),
            Provider::ApnsSandbox => app.apns.as_ref().map(|apns| apns.record(Environment::Sandbox)),
            Provider::Fcm => app.fcm.as_ref().map(|fcm| fcm.record()),
            Provider::WebPush => app.webpush.as_ref().map(|webpush| webpush.record()),
        };
        record.cloned()
    }
}

impl Mode {
    /// Its services are those that are used, or are so no more.
    fn note_in_force(&self, is: bool) {
        if let Self::Sent(apps) = self {
            for record in apps.values().flat_map(App::records) {
                record.note_in_force(is);
            }
        }
    }
}

impl PushService {
    /// Names the app, its environment and how it is reached, for the same again after a restart; `None` where pushes are
    /// printed or not configured.
    pub fn channel(&self, app: &str, provider: Provider) -> Option<String> {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return None };
        let app_id = app;
        let app = apps.get(app)?;
        let apns = |environment| app.apns.as_ref().map(|apns| apns.identity(environment));
        let how = match provider {
            Provider::ApnsProduction => apns(Environment::Production)?,
            Provider::ApnsSandbox => apns(Environment::Sandbox)?,
            Provider::Fcm => return app.fcm.as_ref().map(|_| format!("{app_id} fcm")),
            Provider::WebPush => return app.webpush.as_ref().map(|_| format!("{app_id} webpush")),
        };
        Some(format!("{app_id} {how}"))
    }
}

/// Checks what [`PushService::new`] needs for one App, without dialling: reads and tries its keys.
pub fn check(app: &str, services: &AppPush) -> Vec<SetupError> {
    let mut problems = Vec::new();
    let network: Arc<dyn Network> = Arc::new(Nowhere);
    let parts = Parts { earlier: None, signers: &mut Signers::default(), network: &network, metrics: &Metrics::new() };
    build(app, services, parts, &mut problems);
    problems
}

/// The parts of which an App's push services are built.
struct Parts<'a> {
    /// What it had before, to be used again where nothing has changed.
    earlier: Option<&'a App>,
    signers: &'a mut Signers,
    network: &'a Arc<dyn Network>,
    metrics: &'a Metrics,
}

fn build(
    id: &str,
    settings: &AppPush,
    Parts { earlier, signers, network, metrics }: Parts<'_>,
    problems: &mut Vec<SetupError>,
) -> App {
    let mut app = App::default();
    let record = |service| {
        let was = earlier.and_then(|app| app.records().find(|record| record.service() == service));
        Record::new(id, service, metrics.push_service(id, service), was)
    };
    let mut note = |service, problem| problems.push(SetupError { app: id.into(), service, problem });
    if let Some(settings) = &settings.apns {
        let earlier = earlier.and_then(|app| app.apns.as_ref());
        let make = || Apns::new(id, settings, signers, network, record);
        let made = Made::of(settings, &settings.files(), earlier, make);
        app.apns = made.map_err(|problem| note("apns", problem)).ok();
    }
    if let Some(settings) = &settings.fcm {
        let earlier = earlier.and_then(|app| app.fcm.as_ref());
        let make = || Fcm::new(id, settings, network, record("fcm"));
        let made = Made::of(settings, &settings.files(), earlier, make);
        app.fcm = made.map_err(|problem| note("fcm", problem)).ok();
    }
    if let Some(settings) = &settings.webpush {
        let earlier = earlier.and_then(|app| app.webpush.as_ref());
        let make = || WebPush::new(id, settings, network, record("webpush"));
        let made = Made::of(settings, &settings.files(), earlier, make);
        app.webpush = made.map_err(|problem| note("webpush", problem)).ok();
    }
    app
}

/// One push on its way through one service.
pub(crate) enum DeliveryRun<'a> {
    Apns(&'a Apns, apns::PreparedPush),
    Fcm(&'a Fcm, fcm::PreparedPush),
    WebPush(&'a WebPush, webpush::PreparedPush),
}

/// How often a push was tried by services that are not in force any more, and how often it was lost on the way.
#[derive(Default)]
struct Earlier {
    attempts: u32,
    lost: u32,
    /// The record of those that it was tried by last, and since when.
    since: Option<(Arc<Record>, Instant)>,
}

impl Earlier {
    /// The outcome of a push that was tried so.
    fn settled(self, verdict: Verdict) -> Settled {
        let is_taken = matches!(verdict, Verdict::Accepted | Verdict::Unconfirmed);
        Settled { verdict, attempts: self.attempts, copies: self.lost + u32::from(is_taken) }
    }
}

/// The outcome of a push, and what its service said last.
struct Ended {
    settled: Settled,
    /// The service's last answer was that it takes no more for this device now, or there was no place here.
    limited: bool,
}

impl<'a> DeliveryRun<'a> {
    fn new(app: Option<&'a App>, target: &PushTarget, push: &Push) -> Result<Self, Verdict> {
        let app = app.ok_or(Verdict::Refused { reason: "UnknownApp" })?;
        let absent = Verdict::Refused { reason: "ServiceNotConfigured" };
        let apple = |environment| {
            let apns = app.apns.as_ref().ok_or(absent.clone())?;
            Ok(Self::Apns(apns, apns.prepared(environment, target, push)?))
        };
        match target.provider {
            Provider::ApnsProduction => apple(Environment::Production),
            Provider::ApnsSandbox => apple(Environment::Sandbox),
            Provider::Fcm => {
                let fcm = app.fcm.as_ref().ok_or(absent.clone())?;
                Ok(Self::Fcm(fcm, fcm.prepared(target, push)?))
            }
            Provider::WebPush => {
                let webpush = app.webpush.as_ref().ok_or(absent.clone())?;
                Ok(Self::WebPush(webpush, webpush.prepared(target, push)?))
            }
        }
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        match self {
            Self::Apns(apns, prepared) => apns.record(prepared.environment()),
            Self::Fcm(fcm, _) => fcm.record(),
            Self::WebPush(_, prepared) => prepared.record(),
        }
    }

    fn channel(&self) -> &Channel {
        match self {
            Self::Apns(apns, prepared) => apns.channel(prepared.environment()),
            Self::Fcm(fcm, _) => fcm.channel(),
            Self::WebPush(_, prepared) => prepared.channel(),
        }
    }

    /// Tries until it is settled, `deadline` comes, or its recipient has another token. An error: other services are in force, and it is to be tried again.
    async fn run(self, terms: Terms<'_>, mut from: Resumption<'_, '_>) -> Result<Ended, Earlier> {
        let Terms { event, of, deadline, departure, recipient } = terms;
        let limited = &AtomicBool::new(false);
        let waits_with_others = event.is_of_a_call();
        let retries = Arc::clone(&self.channel().retries);
        let noted = |attempt: Attempt| {
            retries.note(&attempt);
            if attempt == Attempt::Lost {
                departure.note_lost();
            }
            limited.store(matches!(attempt, Attempt::Limited { .. }), Ordering::Relaxed);
            match attempt {
                // How long the service is left alone is for its channel to say, where calls wait together.
                Attempt::Again { after: Some(after) } if waits_with_others => {
                    Attempt::Again { after: Some(after.min(PROBE_EVERY)) }
                }
                attempt => attempt,
            }
        };
        let before = from.earlier.attempts;
        let lost = from.earlier.lost;
        let again = |Tried { attempts, copies }| Earlier { attempts: before + attempts, lost: copies, since: None };
        let mut settled = match self {
            Self::Fcm(fcm, prepared) if event == Event::Call => {
                let send = || -> Flight<'_> {
                    let mut prepared = prepared.clone();
                    Box::pin(async move {
                        let renewed = || fcm.renewed_body(of);
                        noted(fcm.attempt(&mut prepared, deadline, departure, Some(&renewed)).await)
                    })
                };
                copies::run_with(send, deadline, departure, recipient, lost, from.changed.as_mut())
                    .await
                    .map_err(again)?
            }
            Self::WebPush(webpush, prepared) if event == Event::Call => {
                let send = || -> Flight<'_> {
                    let mut prepared = prepared.clone();
                    Box::pin(async move {
                        let renewed = || webpush::renewed_body(of);
                        noted(webpush.attempt(&mut prepared, deadline, (departure, recipient), Some(&renewed)).await)
                    })
                };
                copies::run_with(send, deadline, departure, recipient, lost, from.changed.as_mut())
                    .await
                    .map_err(again)?
            }
            run => {
                let settled = run.repeated(terms, from, &retries, noted).await?;
                return Ok(Ended { settled, limited: limited.load(Ordering::Relaxed) });
            }
        };
        settled.attempts += before;
        Ok(Ended { settled, limited: limited.load(Ordering::Relaxed) })
    }

    /// Likewise what is for nobody: it says nothing of whether the pushes of others are to be tried again. Also why it was not taken, as far as is known.
    pub(crate) async fn try_out(self, deadline: Instant) -> (Verdict, Option<&'static str>) {
        let retries = Arc::clone(&self.channel().retries);
        let (departure, changed) = (Departure::unmeasured(), Notify::new());
        let terms = Terms { event: Event::Test, of: None, deadline, departure: &departure, recipient: &Fixed };
        let from = Resumption { earlier: Earlier::default(), changed: pin!(changed.notified()) };
        let tried = self.repeated(terms, from, &retries, |attempt| attempt).await;
        // These are in force as long as it lasts.
        (tried.map_or(Verdict::Retry { after: None }, |settled| settled.verdict), departure.said())
    }

    /// One copy after the other, for what may be late: with the pauses of its service, and while others wait for it, in its turn.
    async fn repeated(
        mut self,
        Terms { event, of, deadline, departure, recipient }: Terms<'_>,
        Resumption { earlier: mut so_far, mut changed }: Resumption<'_, '_>,
        retries: &Retries,
        noted: impl Fn(Attempt) -> Attempt,
    ) -> Result<Settled, Earlier> {
        // The mistake of the operator's that it was refused for.
        let mut refused_for = None;
        let in_vain =
            |verdict, refused_for: Option<_>| refused_for.map_or(verdict, |reason| Verdict::Refused { reason });
        // A push that may wait for long leaves others the way.
        let life = deadline.saturating_duration_since(Instant::now());
        let longest = if event.is_of_a_call() { None } else { longest_pause(life) };
        let pauses = Backoff { most: longest.unwrap_or(RETRY.most), ..RETRY };
        let mut turn = None;
        if so_far.attempts > 0 && longest.is_some() {
            // So many may have waited for these services that they are no flood for them.
            turn = retries.turn(deadline).await;
            if turn.is_none() {
                return Ok(so_far.settled(Verdict::Retry { after: None }));
            }
        }
        let mut tries = 0;
        loop {
            if Instant::now() >= deadline {
                return Ok(so_far.settled(in_vain(Verdict::TooLate, refused_for)));
            }
            so_far.attempts += 1;
            tries += 1;
            let attempt = self.attempt(of, deadline, departure, recipient).await;
            refused_for = mistake_waited_out(event, &attempt);
            let attempt = noted(if refused_for.is_some() { Attempt::Again { after: None } } else { attempt });
            drop(turn.take());
            let after = match attempt {
                Attempt::Done(verdict) => return Ok(so_far.settled(verdict)),
                Attempt::Again { after } | Attempt::Limited { after } => after,
                // The device takes an alert that comes twice for one, but not for ever.
                Attempt::Lost if so_far.lost + 1 >= ALERT_COPIES_MAX => {
                    return Ok(so_far.settled(Verdict::Unconfirmed));
                }
                Attempt::Lost => {
                    so_far.lost += 1;
                    None
                }
            };
            let pause = pauses.pause_or(tries, after);
            let now = Instant::now();
            if now >= deadline {
                return Ok(so_far.settled(in_vain(Verdict::TooLate, refused_for)));
            }
            let next = match event {
                Event::Call => last_try::next_try(now, pause, after, deadline),
                _ => Some(now + pause).filter(|at| *at < deadline),
            };
            if next.is_none() && event != Event::Call {
                return Ok(so_far.settled(in_vain(Verdict::Retry { after }, refused_for)));
            }
            let its_turn = async {
                // Of a call that is not tried again the token, or the services, may change yet.
                sleep_until(next.unwrap_or_else(|| last_try::settled_at(deadline))).await;
                match next {
                    None => None,
                    Some(_) if longest.is_some() => retries.turn(deadline).await.map(Some),
                    Some(_) => Some(None),
                }
            };
            turn = tokio::select! {
                its_turn = its_turn => match its_turn {
                    Some(turn) => turn,
                    None => return Ok(so_far.settled(in_vain(Verdict::Retry { after }, refused_for))),
                },
                () = &mut changed => {
                    if !recipient.stays().await {
                        return Ok(so_far.settled(Verdict::Moved));
                    }
                    return Err(so_far);
                }
            };
            if !recipient.stays().await {
                return Ok(so_far.settled(Verdict::Moved));
            }
        }
    }

    /// Tries once.
    async fn attempt(
        &mut self,
        of: Content<'_>,
        deadline: Instant,
        departure: &Departure,
        recipient: &dyn Recipient,
    ) -> Attempt {
        match self {
            Self::Apns(apns, prepared) => {
                let renewed = || apns::renewed_body(of);
                apns.attempt(prepared, deadline, departure, Some(&renewed)).await
            }
            Self::Fcm(fcm, prepared) => fcm.attempt(prepared, deadline, departure, None).await,
            Self::WebPush(webpush, prepared) => webpush.attempt(prepared, deadline, (departure, recipient), None).await,
        }
    }
}

/// What a push says, and to whom; `None`: it is for nobody.
pub(crate) type Content<'a> = Option<(&'a Push, &'a PushTarget)>;

/// How long a push is tried, and who is told and asked meanwhile.
#[derive(Clone, Copy)]
struct Terms<'a> {
    event: Event,
    of: Content<'a>,
    deadline: Instant,
    /// Told when it leaves.
    departure: &'a Departure,
    /// Asked before it is tried again.
    recipient: &'a dyn Recipient,
}

/// Where a push goes on that other services have tried, and the news that others than these are in force.
struct Resumption<'a, 'b> {
    earlier: Earlier,
    changed: Pin<&'a mut Notified<'b>>,
}

/// The operator's mistake that this push was refused for, where it waits until that is mended.
fn mistake_waited_out(event: Event, attempt: &Attempt) -> Option<&'static str> {
    match attempt {
        Attempt::Done(Verdict::Refused { reason }) if is_waited_out(event) && is_of_configuration(reason) => {
            Some(*reason)
        }
        _ => None,
    }
}

/// Whether a push waits for the operator to mend a mistake. A call is for now or never; and a test is asked for to see the mistake.
fn is_waited_out(event: Event) -> bool {
    !event.is_of_a_call() && event != Event::Test
}

/// Whether a call was not taken although the service had time for it.
fn not_in_time(verdict: &Verdict, started: Instant) -> bool {
    const LONG: Duration = Duration::from_secs(5);
    match verdict {
        Verdict::Retry { .. } => true,
        Verdict::TooLate | Verdict::Unconfirmed => started.elapsed() >= LONG,
        _ => false,
    }
}

fn print(app: &str, target: &PushTarget, push: &Push) -> Verdict {
    let text = payload::fcm(push, target.public_key.as_deref()).unwrap_or_default();
    PRINTED.with_borrow_mut(|heard| match heard {
        Some(heard) => heard.push(text),
        None => log::say_push(app, &format!("{:?}", target.provider), &text),
    });
    Verdict::Accepted
}

thread_local! {
    /// In a simulation: the text printed on this thread.
    static PRINTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// In a simulation: the text printed on this thread since this was asked last. From the first time on it comes here instead of
/// to the standard error.
pub fn take_printed() -> Vec<String> {
    PRINTED.replace(Some(Vec::new())).unwrap_or_default()
}
