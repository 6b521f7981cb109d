//! One machine for one binding's subscription to its mailbox: subscribe, refresh, challenge, give up (RFC 6665, RFC 3842).
//!
//! | state | timer | answer | 2xx | 401, 407 | 423 | 5xx but 501, 408, silence | any other |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | Waiting | send → Asking or Sent | – | – | – | – | – | – |
//! | Asking (for a digest) | – | ask on, or send → Sent; none → Never | – | – | – | – | – |
//! | Sent | – | – | → Active | → Asking, until refused: → Never | → Asking, once, with Min-Expires (RFC 6665 §4.1.2.1) | → Waiting | of a refresh: → Waiting, for a new dialog; else → Never |
//! | Active | refresh, in the dialog | – | – | – | – | – | – |
//! | Never | – | – | – | – | – | – | – |
//!
//! A wait lasts as long as Retry-After says, and the first one after a refresh that failed no longer than a half of what is left of the subscription.
//! It grows with each failure, up to half an hour, and has no end: the server may be away for a day. While its binding is not registered, or has no
//! flow, the subscription stays Waiting, and that counts as no failure.
//!
//! A NOTIFY that ends the subscription makes it Waiting, for as long as its `retry-after` says and an hour at most, unless the server says that it may not
//! come again: Never. One that says how long it lasts still (RFC 6665 §4.1.3) brings its refresh forward, never back.
//!
//! A 2xx without a Contact or a To tag makes no dialog: the first NOTIFY does (RFC 6665 §4.4.1), whether it comes before the 2xx or after, and without one
//! the refresh begins a new one.
//!
//! Invariant: a server that does not want it (489, 403, 404, 481, …) is not asked again for this registration. One
//! Call-ID for the life of the binding; a digest is made by the shell, and no credential comes here.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::{Challenge, Hash};
use crate::flow::{Transport, back_off};
use crate::id::{BindingId, BranchId};
use crate::message::{Composer, Message, Method, Name, NameAddr, Params, Party, Uri};
use crate::random::Random;
use crate::registration::challenges::{Challenger, Challenges, Verdict};
use crate::registration::{RequestContext, retry_after};
use crate::timers::Armed;
use crate::timing::BackOff;

/// The lifetime that is asked for, in seconds; the server may give less.
const EXPIRES: u32 = 3600;
/// The longest lifetime that is asked for because a server takes no shorter one (423), in seconds.
const EXPIRES_MAX: u32 = 7 * 24 * 3600;
/// The shortest lifetime that is believed, in seconds, so that a hostile server cannot make the relay spin.
const EXPIRES_MIN: u32 = 15;
/// How long after the registration the subscription begins: at a random moment within, in milliseconds, so that a restart
/// is no storm.
const BEGIN_WITHIN_MS: (u64, u64) = (1_000, 20_000);
/// Record-Routes that are kept of one dialog; with more the server is not asked again.
const ROUTES_MAX: usize = 16;

/// The next action of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done.
    Nothing,
    /// Ask the shell for a digest with [`Subscription::challenge`].
    Ask,
    /// Send [`Subscription::compose`], then call [`Subscription::sent`].
    Send,
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Asking { at: usize, others: Vec<Challenge>, answers: Vec<(Challenger, String)> },
    Sent { branch: BranchId },
    Active { refresh_at: Instant },
    Never,
}

/// The dialog that the server's 2xx made, or its first NOTIFY (RFC 6665 §4.1.2, §4.4.1).
#[derive(Debug)]
struct Dialog {
    to: Box<str>,
    target: Box<str>,
    routes: Vec<Box<str>>,
}

impl Dialog {
    /// The dialog that a message of the server makes; `text` is the header value that names the server there, and `server` the same, parsed.
    fn with(message: &Message, text: Option<&str>, server: Option<Party<'_>>, routes: Vec<Box<str>>) -> Option<Self> {
        server?.tag()?;
        let target = Uri::request_uri_of(message.contacts().first()?.target()?).into();
        (routes.len() <= ROUTES_MAX).then_some(Self { to: text?.into(), target, routes })
    }
}

/// The subscription of one binding.
#[derive(Debug)]
pub struct Subscription {
    /// The timer that is set for [`Self::deadline`].
    pub armed: Armed,
    aor: Box<str>,
    state: State,
    challenges: Challenges,
    dialog: Option<Dialog>,
    /// The dialog that a NOTIFY makes which came before the 2xx, where that one makes none.
    told_dialog: Option<Dialog>,
    /// The end of the subscription as a NOTIFY has told it that came before the 2xx.
    told_end: Option<Instant>,
    /// The end of what was granted last, as far as it is known.
    ends: Option<Instant>,
    /// The lifetime that is asked for, in seconds.
    expires: u32,
    cseq: u32,
    failures: u8,
}

impl Subscription {
    /// A subscription that begins soon.
    pub fn new(now: Instant, aor: Box<str>, random: &mut Random) -> Self {
        let (from, to) = BEGIN_WITHIN_MS;
        let until = now + Duration::from_millis(random.between(from, to));
        let (armed, challenges) = (Armed::default(), Challenges::default());
        let state = State::Waiting { until };
        let (dialog, told_dialog, told_end, ends) = (None, None, None, None);
        Self {
            armed,
            aor,
            state,
            challenges,
            dialog,
            told_dialog,
            told_end,
            ends,
            expires: EXPIRES,
            cseq: 0,
            failures: 0,
        }
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Active { refresh_at } => Some(refresh_at),
            State::Asking { .. } | State::Sent { .. } | State::Never => None,
        }
    }

    /// Whether this Call-ID, of a NOTIFY with a To tag, is its own.
    pub fn owns(binding: BindingId, epoch: &str, call_id: &str) -> bool {
        call_id == call_id_of(binding, epoch)
    }

    /// Whether the server may still send NOTIFYs for it.
    pub fn may_be_notified(&self) -> bool {
        self.cseq > 0 && !matches!(self.state, State::Never)
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant) -> Step {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Step::Nothing;
        }
        self.challenges.begin();
        self.write(Vec::new())
    }

    /// The Request-URI of the next SUBSCRIBE, and the digest's.
    pub fn uri(&self) -> &str {
        self.dialog.as_ref().map_or(&self.aor, |dialog| &dialog.target)
    }

    /// The challenge to answer, and the count of answers with its nonce.
    pub fn challenge(&mut self) -> Option<(Challenge, u32)> {
        match &self.state {
            State::Asking { at, .. } => self.challenges.next_answer(*at),
            _ => None,
        }
    }

    /// The shell's answer; `None`: it has no credential for this challenge.
    pub fn answer(&mut self, authorization: Option<String>) -> Step {
        let State::Asking { at, others, answers } = &mut self.state else { return Step::Nothing };
        match (authorization, self.challenges.challenger(*at)) {
            (Some(value), Some(challenger)) => {
                answers.push((challenger, value));
                *at += 1;
            }
            _ if self.challenges.skip(*at, others).is_err() => {
                self.state = State::Never;
                return Step::Nothing;
            }
            _ => {}
        }
        if *at < self.challenges.len() { Step::Ask } else { Step::Send }
    }

    /// Writes the SUBSCRIBE; `service_route` leads the first one (RFC 3608 §6.1).
    pub fn compose(&mut self, binding: BindingId, head: &RequestContext<'_>, service_route: &[Box<str>]) -> Bytes {
        self.cseq += 1;
        let request = self.request(binding, head, service_route, self.expires);
        let State::Asking { answers, .. } = &self.state else { return request.finish() };
        answers
            .iter()
            .fold(request, |request, (challenger, value)| request.header(challenger.credentials_header(), value))
            .finish()
    }

    /// Writes the SUBSCRIBE that ends it (RFC 6665 §4.1.2.3); `None` when there is nothing to end.
    pub fn compose_end(&mut self, binding: BindingId, head: &RequestContext<'_>) -> Option<Bytes> {
        self.dialog.as_ref()?;
        self.cseq += 1;
        Some(self.request(binding, head, &[], 0).finish())
    }

    /// The SUBSCRIBE was sent with this branch.
    pub fn sent(&mut self, branch: BranchId) {
        (self.state, self.told_dialog, self.told_end) = (State::Sent { branch }, None, None);
    }

    /// A response to it.
    pub fn on_response(
        &mut self,
        now: Instant,
        branch: BranchId,
        response: &Message,
        hashes: &[Hash],
        back_off: &BackOff,
        random: &mut Random,
    ) -> Step {
        let State::Sent { branch: waiting_for } = self.state else { return Step::Nothing };
        let Some(status) = response.status().filter(|status| *status >= 200 && branch == waiting_for) else {
            return Step::Nothing;
        };
        match status {
            ..300 => self.on_success(now, response, random),
            401 | 407 => match self.challenges.on_challenge(Challenger::by(status), response, hashes) {
                Verdict::Answer { others } => return self.write(others),
                Verdict::Refused | Verdict::Unanswerable { .. } | Verdict::Endless => self.state = State::Never,
            },
            423 if self.expires == EXPIRES && wanted_interval(response).is_some() => {
                self.expires = wanted_interval(response).unwrap_or(EXPIRES);
                return self.write(Vec::new());
            }
            408 | 500 | 502..=599 => self.retry(now, back_off, retry_after(response), random),
            // The server knows the dialog no more: what ends is that one (RFC 6665 §4.1.2.2, RFC 5057 §5.1).
            _ if self.dialog.take().is_some() => self.retry(now, back_off, retry_after(response), random),
            _ => self.state = State::Never,
        }
        Step::Nothing
    }

    /// The SUBSCRIBE was never answered.
    pub fn on_silence(&mut self, now: Instant, branch: BranchId, back_off: &BackOff, random: &mut Random) {
        if matches!(self.state, State::Sent { branch: waiting_for } if waiting_for == branch) {
            self.retry(now, back_off, None, random);
        }
    }

    /// It is due, and its binding is not registered, or has no flow.
    pub fn put_off(&mut self, now: Instant, timing: &BackOff, random: &mut Random) {
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        if is_due || matches!(self.state, State::Asking { .. }) {
            self.state = State::Waiting { until: now + back_off(1, &self.waits(now, timing), random) };
        }
    }

    /// The waits, none of them beyond what is left of what was granted last.
    fn waits(&self, now: Instant, timing: &BackOff) -> BackOff {
        let left = self.ends.map(|ends| ends.saturating_duration_since(now)).filter(|left| !left.is_zero());
        left.map_or(*timing, |left| timing.within(left))
    }

    /// A NOTIFY of it says how it stands (RFC 6665 §4.1.3).
    pub fn on_notify(&mut self, now: Instant, notify: &Message, back_off: &BackOff, random: &mut Random) {
        let state = notify.values_written("Subscription-State").next().unwrap_or_default();
        let state = String::from_utf8_lossy(state).to_ascii_lowercase();
        let (said, params) = state.split_at(state.find(';').unwrap_or(state.len()));
        let number = |name| Params::loose(params).value(name).and_then(|seconds| seconds.trim().parse::<u32>().ok());
        if said.trim() != "terminated" {
            let left = number("expires");
            let made = match self.state {
                State::Active { .. } => Some(&mut self.dialog),
                State::Sent { .. } if self.dialog.is_none() => Some(&mut self.told_dialog),
                _ => None,
            };
            if let Some(made) = made.filter(|it| it.is_none()) {
                let routes = notify.elements(Name::RecordRoute).map(Into::into).collect();
                *made = Dialog::with(notify, notify.text(Name::From), notify.from(), routes);
            }
            return self.shorten(now, left, random);
        }
        (self.dialog, self.told_dialog) = (None, None);
        let never = ["rejected", "noresource", "invariant"];
        if never.iter().any(|reason| state.contains(&format!("reason={reason}"))) {
            self.state = State::Never;
        } else {
            self.ends = None;
            let retry_after = number("retry-after").map(|seconds| Duration::from_secs(seconds.min(EXPIRES).into()));
            self.retry(now, back_off, retry_after, random);
        }
    }

    /// A NOTIFY says that it lasts for so many seconds yet.
    fn shorten(&mut self, now: Instant, left: Option<u32>, random: &mut Random) {
        let Some(left) = left else { return };
        let ends = now + Duration::from_secs(left.into());
        self.ends = self.ends.map(|known| known.min(ends));
        match &mut self.state {
            State::Active { refresh_at } => *refresh_at = (*refresh_at).min(refresh_of(now, left, random)),
            State::Sent { .. } => self.told_end = Some(now + Duration::from_secs(left.min(EXPIRES).into())),
            State::Waiting { .. } | State::Asking { .. } | State::Never => {}
        }
    }

    fn write(&mut self, others: Vec<Challenge>) -> Step {
        self.state = State::Asking { at: 0, others, answers: Vec::new() };
        if self.challenges.is_empty() { Step::Send } else { Step::Ask }
    }

    fn on_success(&mut self, now: Instant, response: &Message, random: &mut Random) {
        self.challenges.on_success(response);
        // A subscription that is granted and ended again and again has failed.
        if self.dialog.is_some() {
            self.failures = 0;
        } else {
            let mut routes: Vec<Box<str>> = response.elements(Name::RecordRoute).map(Into::into).collect();
            if routes.len() > ROUTES_MAX {
                self.state = State::Never;
                return;
            }
            routes.reverse();
            let made = Dialog::with(response, response.text(Name::To), response.to(), routes);
            self.dialog = made.or(self.told_dialog.take());
        }
        let granted = response.number(Name::Expires).unwrap_or(EXPIRES);
        let told = self.told_end.take().map(|end| end.saturating_duration_since(now).as_secs() as u32);
        let granted = told.map_or(granted, |told| told.min(granted));
        self.ends = Some(now + Duration::from_secs(granted.into()));
        self.state = State::Active { refresh_at: refresh_of(now, granted, random) };
    }

    fn retry(&mut self, now: Instant, timing: &BackOff, retry_after: Option<Duration>, random: &mut Random) {
        self.failures = self.failures.saturating_add(1);
        let timing = self.waits(now, timing);
        self.ends = None;
        // A refresh that has failed twice may be for a dialog that nobody has any more.
        self.dialog = self.dialog.take().filter(|_| self.failures == 1);
        let after = back_off(self.failures, &timing, random).max(retry_after.unwrap_or_default());
        self.state = State::Waiting { until: now + after };
    }

    fn request(
        &self,
        binding: BindingId,
        head: &RequestContext<'_>,
        service_route: &[Box<str>],
        expires: u32,
    ) -> Composer {
        let (aor, cseq, epoch) = (&self.aor, self.cseq, head.epoch);
        let (transport, local) = (head.transport, head.local);
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        let by = if transport == Transport::Udp { String::new() } else { format!(";transport={}", transport.param()) };
        let to = self.dialog.as_ref().map_or_else(|| format!("<{aor}>"), |dialog| dialog.to.to_string());
        let routes = self.dialog.as_ref().map_or(service_route, |dialog| &dialog.routes[..]);
        let via = format!("SIP/2.0/{} {local};branch={}{rport}", transport.via(), head.branch);
        // A strict router that comes first is the Request-URI, and the target the last of Route (RFC 3261 §12.2.1.1).
        let strict = routes.first().and_then(|route| NameAddr::parse(route)).filter(NameAddr::is_strict_router);
        let uri = strict.as_ref().map_or_else(|| self.uri(), NameAddr::request_uri);
        let request = Composer::request(Method::Subscribe, uri).header(Name::Via, via).header(Name::MaxForwards, 70);
        let behind = routes.iter().skip(usize::from(strict.is_some()));
        let request = behind.fold(request, |request, route| request.header(Name::Route, route));
        let request = match strict {
            Some(_) => request.header(Name::Route, format_args!("<{}>", self.uri())),
            None => request,
        };
        request
            .header(Name::From, format_args!("<{aor}>;tag={epoch}"))
            .header(Name::To, to)
            .header(Name::CallId, call_id_of(binding, epoch))
            .header(Name::CSeq, format_args!("{cseq} SUBSCRIBE"))
            .header(Name::Contact, format_args!("<sip:{binding}@{local}{by}>"))
            .header(Name::Event, "message-summary")
            .header(Name::Accept, "application/simple-message-summary")
            .header(Name::Expires, expires)
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")))
    }
}

/// The longer lifetime that a 423 wants, in seconds, where it may be asked for.
fn wanted_interval(response: &Message) -> Option<u32> {
    response.number(Name::MinExpires).filter(|seconds| (EXPIRES + 1..=EXPIRES_MAX).contains(seconds))
}

/// When a subscription is refreshed that lasts for so many seconds: before it ends, and never at the same moment for all.
fn refresh_of(now: Instant, seconds: u32, random: &mut Random) -> Instant {
    let millis = u64::from(seconds.clamp(EXPIRES_MIN, EXPIRES)) * 1_000;
    now + Duration::from_millis(random.between(millis * 70 / 100, millis * 85 / 100))
}

fn call_id_of(binding: BindingId, epoch: &str) -> String {
    format!("{binding}.mwi.{epoch}")
}
