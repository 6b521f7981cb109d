//! The one way to the push services: it chooses the App's service, and tries again until the deadline.
//!
//! Invariant: no push is tried after its deadline, and no wait exceeds it. No lock is held while a push waits, so that the trouble of one App or one service
//! delays no other.

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
use super::printed::print;
use crate::domain::PushOutcome;
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
use crate::push::{Event, Push, Verdict};
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

/// The largest number of copies of an alert that a service may have taken.
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
    /// The verdict. [`Verdict::Retry`] here means that no further attempt fits before the deadline, so that it is final. For a call it comes right before the
    /// deadline, and not earlier.
    pub verdict: Verdict,
    /// The number of attempts; 0 if the push never left.
    pub attempts: u32,
    /// The number of copies that the service may have taken.
    pub copies: u32,
    /// The time from the call of [`PushService::deliver`] to the verdict.
    pub elapsed: Duration,
    /// Whether the services that gave the verdict are still in force: it says nothing about others.
    pub is_in_force: bool,
}

/// Delivers pushes; cheap to clone.
#[derive(Clone)]
pub struct PushService(Arc<InForce>);

/// The services in use, and the notice that others have replaced them.
struct InForce {
    mode: ArcSwap<Mode>,
    changed: Notify,
}

pub(crate) enum Mode {
    Sent(HashMap<Box<str>, App>),
    Printed,
}

#[derive(Clone, Default)]
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
    /// before the first push. `metrics` shows the health of each service as well.
    ///
    /// # Errors
    /// Every service that cannot be set up, each with its reason.
    pub fn new(
        network: Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SetupError>> {
        let service = Self::built(&network, apps, metrics, (&HashMap::new(), &[]))?;
        service.mode().note_in_force(true);
        Ok(service)
    }

    /// Like [`Self::new`], but services with the same settings and files are those of `self`, with their connections, tokens and health. New services are
    /// not reported before [`Self::become_like`]. All those of Apps that are `kept` are as they are, whatever became of their files.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn renewed(
        &self,
        kept: &[Box<str>],
        network: Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
    ) -> Result<Self, Vec<SetupError>> {
        match &*self.mode() {
            Mode::Sent(earlier) => Self::built(&network, apps, metrics, (earlier, kept)),
            Mode::Printed => Self::built(&network, apps, metrics, (&HashMap::new(), &[])),
        }
    }

    fn built(
        network: &Arc<dyn Network>,
        apps: Vec<(Box<str>, AppPush)>,
        metrics: &Metrics,
        (earlier, kept): (&HashMap<Box<str>, App>, &[Box<str>]),
    ) -> Result<Self, Vec<SetupError>> {
        let mut signers = Signers::beside(earlier.values().filter_map(|app| app.apns.as_deref()));
        let mut problems = Vec::new();
        let mut ready = HashMap::with_capacity(apps.len());
        for (id, settings) in apps {
            let (earlier, is_kept) = (earlier.get(&id), kept.contains(&id));
            let parts = Parts { earlier, signers: &mut signers, network, metrics };
            let kept = earlier.filter(|_| is_kept).cloned();
            let app = kept.unwrap_or_else(|| build(&id, &settings, parts, &mut problems));
            ready.insert(id, app);
        }
        if problems.is_empty() { Ok(Self::of(Mode::Sent(ready))) } else { Err(problems) }
    }

    /// Uses the services and keys of another one from now on. Pushes under way go on as they began; those that wait for a retry, and were certainly not
    /// taken, are tried by the new services. The same holds for the next copy of a call's push that may be taken twice.
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

    /// Prints each push to the log instead of sending it, with the verdict accepted: for a relay without a configuration.
    pub fn printed() -> Self {
        Self::of(Mode::Printed)
    }

    /// Delivers `push` to `target` of the App `app`. A push that may be repeated is tried until its deadline, with growing pauses that the service may
    /// lengthen. The future may be dropped at any time.
    pub async fn deliver(&self, app: &str, target: &PushTarget, push: &Push) -> Delivery {
        self.deliver_measured(app, target, push, push.until(), &Departure::unmeasured(), &Fixed).await
    }

    /// Like [`Self::deliver`], but it is tried only until `until`, and ends as [`Verdict::Retry`] then: a service that has taken it may deliver it for longer.
    /// `departure` is told when it leaves, and `recipient` is asked before each retry.
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
            // Enabled before the services in force are read, so that no later change is missed.
            let changed = pin!(self.0.changed.notified());
            let mode = self.mode();
            match self.deliver_by(&mode, app, target, push, terms, Resumption { earlier, changed }).await {
                Ok(ended) => break (ended, Arc::ptr_eq(&mode, &self.mode())),
                Err(tried) => earlier = tried,
            }
        };
        let verdict = match verdict {
            // The push was tried for long enough, although it is still worth delivering.
            Verdict::TooLate if push.until() > Instant::now().into_std() => Verdict::Retry { after: None },
            verdict => verdict,
        };
        Delivery { verdict, attempts, copies, elapsed: started.elapsed(), is_in_force }
    }

    /// Delivers by these services. An error: others came into force before the push was settled.
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
            // A copy that earlier services may have taken may ring.
            Err(_) if from.earlier.lost > 0 && push.event == Event::Call => {
                let Earlier { attempts, lost: copies, .. } = from.earlier;
                return Ok(Settled { verdict: Verdict::Unconfirmed, attempts, copies });
            }
            Err(verdict) => return Ok(Settled { verdict, attempts: from.earlier.attempts, copies: from.earlier.lost }),
        };
        let record = Arc::clone(run.record());
        let _waiting = record.wait();
        // After a reload that keeps these services, the time that the push has already waited for them counts.
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
            // Without an answer, the reason is what keeps all pushes from the service.
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

    /// Counts the outcome of a push for its app.
    pub fn count(&self, app: &str, provider: Provider, outcome: PushOutcome) {
        if let Some(record) = self.record(app, provider) {
            record.count(outcome);
        }
    }

    /// A token of this app and environment was called bad, and that is not believed.
    pub fn note_doubted_token(&self, app: &str, provider: Provider, token: &PushToken) {
        if let Some(record) = self.record(app, provider) {
            record.token_refused("BadDeviceToken", token);
        }
    }

    /// The health of each service of each app, in the order of their names.
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
    /// Notes whether its services are those in use.
    fn note_in_force(&self, is: bool) {
        if let Self::Sent(apps) = self {
            for record in apps.values().flat_map(App::records) {
                record.note_in_force(is);
            }
        }
    }
}

impl PushService {
    /// A name for the app, its environment and the way to the service, which is the same after a restart. `None`: pushes are printed or not configured.
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
    /// The earlier services, which are used again if nothing has changed.
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

/// The attempts of a push so far, also by services that are not in force any more.
#[derive(Default)]
struct Earlier {
    attempts: u32,
    lost: u32,
    /// The record of the services that tried it last, and since when.
    since: Option<(Arc<Record>, Instant)>,
}

impl Earlier {
    /// The outcome of the push after these attempts.
    fn settled(self, verdict: Verdict) -> Settled {
        let is_taken = matches!(verdict, Verdict::Accepted | Verdict::Unconfirmed);
        Settled { verdict, attempts: self.attempts, copies: self.lost + u32::from(is_taken) }
    }

    /// The outcome of a push that is tried no more; the operator's mistake that it was refused for says more than `verdict`.
    fn given_up(self, verdict: Verdict, refused_for: Option<&'static str>) -> Settled {
        self.settled(refused_for.map_or(verdict, |reason| Verdict::Refused { reason }))
    }

    /// The pause that the service wants before the next attempt.
    ///
    /// # Errors
    /// The verdict of a push that is over.
    fn next_after(&mut self, attempt: Attempt) -> Result<Option<Duration>, Verdict> {
        match attempt {
            Attempt::Done(verdict) => Err(verdict),
            Attempt::Again { after } | Attempt::Limited { after } => Ok(after),
            // The device takes an alert that comes twice for one, but not for ever.
            Attempt::Lost if self.lost + 1 >= ALERT_COPIES_MAX => Err(Verdict::Unconfirmed),
            Attempt::Lost => {
                self.lost += 1;
                Ok(None)
            }
        }
    }
}

/// The outcome of a push, and what its service said last.
struct Ended {
    settled: Settled,
    /// Whether the service's last answer was that it takes no more for this device now, or there was no place here.
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

    /// Tries until the push is settled, `deadline` comes, or its recipient has another token. An error: other services came into force, which have to try it.
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
                // The channel, where all calls wait, decides how long the service is left alone.
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

    /// Tries a push that is for nobody: its outcome does not decide about retries of other pushes. Returns the verdict and, if known, the reason why it was
    /// not taken.
    pub(crate) async fn try_out(self, deadline: Instant) -> (Verdict, Option<&'static str>) {
        let retries = Arc::clone(&self.channel().retries);
        let (departure, changed) = (Departure::unmeasured(), Notify::new());
        let terms = Terms { event: Event::Test, of: None, deadline, departure: &departure, recipient: &Fixed };
        let from = Resumption { earlier: Earlier::default(), changed: pin!(changed.notified()) };
        let tried = self.repeated(terms, from, &retries, |attempt| attempt).await;
        // These services stay in force for the attempt.
        (tried.map_or(Verdict::Retry { after: None }, |settled| settled.verdict), departure.said())
    }

    /// Tries a push that may be late, one copy after the other: with the pauses that its service wants and, while other retries wait, in its turn.
    async fn repeated(
        mut self,
        Terms { event, of, deadline, departure, recipient }: Terms<'_>,
        Resumption { earlier: mut so_far, mut changed }: Resumption<'_, '_>,
        retries: &Retries,
        noted: impl Fn(Attempt) -> Attempt,
    ) -> Result<Settled, Earlier> {
        // The operator's mistake that the last attempt was refused for.
        let mut refused_for = None;
        // A push that may wait for long takes turns with others.
        let life = deadline.saturating_duration_since(Instant::now());
        let longest = if event.is_of_a_call() { None } else { longest_pause(life) };
        let pauses = Backoff { most: longest.unwrap_or(RETRY.most), ..RETRY };
        let mut turn = None;
        if so_far.attempts > 0 && longest.is_some() {
            // Many pushes may wait for these services: turns keep them from becoming a flood.
            turn = retries.turn(deadline).await;
            if turn.is_none() {
                return Ok(so_far.settled(Verdict::Retry { after: None }));
            }
        }
        let mut tries = 0;
        loop {
            if Instant::now() >= deadline {
                return Ok(so_far.given_up(Verdict::TooLate, refused_for));
            }
            so_far.attempts += 1;
            tries += 1;
            let attempt = self.attempt(of, deadline, departure, recipient).await;
            refused_for = mistake_waited_out(event, &attempt);
            let attempt = noted(if refused_for.is_some() { Attempt::Again { after: None } } else { attempt });
            drop(turn.take());
            let next = so_far.next_after(attempt).and_then(|after| {
                let next = last_try::next_attempt(event, deadline, pauses.pause_or(tries, after), after)?;
                Ok((next, after))
            });
            let (next, after) = match next {
                Ok(next) => next,
                Err(verdict) => return Ok(so_far.given_up(verdict, refused_for)),
            };
            let its_turn = async {
                // Even if a call is not tried again, its token or the services may still change.
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
                    None => return Ok(so_far.given_up(Verdict::Retry { after }, refused_for)),
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

    /// Makes one attempt.
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

/// The content and the recipient of a push. `None`: it is for nobody.
pub(crate) type Content<'a> = Option<(&'a Push, &'a PushTarget)>;

/// The terms of a delivery: how long it is tried, who is told and who is asked.
#[derive(Clone, Copy)]
struct Terms<'a> {
    event: Event,
    of: Content<'a>,
    deadline: Instant,
    /// Is told when the push leaves.
    departure: &'a Departure,
    /// Is asked before each retry.
    recipient: &'a dyn Recipient,
}

/// The state of a push that earlier services have tried, and the notice that other services come into force.
struct Resumption<'a, 'b> {
    earlier: Earlier,
    changed: Pin<&'a mut Notified<'b>>,
}

/// The operator's mistake for which this push was refused, if the push waits until the mistake is corrected.
fn mistake_waited_out(event: Event, attempt: &Attempt) -> Option<&'static str> {
    match attempt {
        Attempt::Done(Verdict::Refused { reason }) if is_waited_out(event) && is_of_configuration(reason) => {
            Some(*reason)
        }
        _ => None,
    }
}

/// Whether a push waits until the operator corrects a mistake. A call cannot wait, and a test should show the mistake.
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
