//! A REGISTER that was not accepted: what is tried again, after how long, and what ends.
//!
//! The shell decides whether the third refusal ends an account, because it alone knows whether the same server refuses others, too. Until the shell unbinds
//! it, the account is tried again once in [`refused_twice`](BackOff::refused_twice).
//!
//! An account is [put off](Registration::put_off), without a refusal of its credentials, when its SIP server does not know it any more (404, 604), or asks for
//! a digest that the shell cannot make.
//!
//! Invariant: refused credentials are tried far apart, and only where they had been accepted before.

use std::time::{Duration, Instant};

use super::request::{CONTACT_TRANSPORTS, Contacts};
use super::{
    Attempt, FinalResponse, Goal, MIN_EXPIRES_MAX, REFUSALS_MAX, RETRY_AFTER_MAX, Registration, RegistrationFailure,
    State, Step,
};
use crate::flow::{Transport, back_off};
use crate::message::{Message, Name, Party, Scheme, Uri};
use crate::random::Random;
use crate::timing::BackOff;

/// Unregistrations in a row that may fail where nothing tells how long the Contact stands.
const UNREGISTRATIONS_MAX: u8 = 6;

/// How long a server is left alone that has refused.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pause {
    /// The time before which refused credentials are not shown again.
    until: Option<Instant>,
    /// How often the registration was [put off](Registration::put_off), without a grant or another failure between.
    put_offs: u8,
}

impl Registration {
    pub(super) fn retry(
        &mut self,
        now: Instant,
        status: Option<u16>,
        timing: &BackOff,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) -> Step {
        if self.goal != Goal::Registered {
            let after = self.wait(now, timing, retry_after, random);
            return self.unregister_later(now, after, retry_after.is_some());
        }
        if status.is_some() {
            // Refusals count in a row.
            self.refusals = 0;
        }
        self.end_pauses();
        let after = self.wait(now, timing, retry_after, random);
        self.state = State::BackingOff { until: now + after, told: retry_after.is_some() };
        self.registered = false;
        Step::Failed(RegistrationFailure::Retry { status, after })
    }

    /// How long to wait after one more failure. After the first one, while the Contact stands by an earlier grant, no longer than a half of what is left
    /// of that: a refresh that is refused once must not cost the calls of the time between.
    fn wait(&mut self, now: Instant, timing: &BackOff, retry_after: Option<Duration>, random: &mut Random) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let left = self.bound.granted_until().map(|until| until.saturating_duration_since(now));
        let left = left.filter(|left| self.failures == 1 && !left.is_zero());
        let timing = left.map_or(*timing, |left| timing.within(left));
        back_off(self.failures, &timing, random).max(retry_after.unwrap_or_default())
    }

    /// The SIP server may have the Contact still. Of one that is kept it is asked again, as long as the Contact stands; the end of one that is to be
    /// forgotten waits for nothing. `told`: the server has named the time.
    pub(super) fn unregister_later(&mut self, now: Instant, after: Duration, told: bool) -> Step {
        let until = now + after;
        let stands = match self.bound.granted_until() {
            Some(granted_until) => granted_until > until,
            None => self.bound.may_stand() && self.failures < UNREGISTRATIONS_MAX,
        };
        let is_again = self.goal == Goal::Silent && stands;
        self.state = if is_again { State::BackingOff { until, told } } else { State::Unregistered { at: None } };
        self.registered = false;
        Step::Unregistered { confirmed: false }
    }

    /// The SIP server forbids the unregistration of one that is kept, whose credentials it had accepted: it is asked again, far apart, as a registration
    /// would be.
    pub(super) fn unregistration_forbidden(&mut self, now: Instant, waits: &BackOff, random: &mut Random) -> Step {
        self.failures = self.failures.saturating_add(1);
        let far = BackOff { base: waits.refused_once, max: waits.refused_twice, ..*waits };
        let after = back_off(self.failures, &far, random).max(waits.refused_once);
        self.unregister_later(now, after, false)
    }

    pub(super) fn paused_until(&self) -> Option<Instant> {
        self.rare.as_ref().and_then(|rare| rare.pause.until)
    }

    pub(super) fn pause_until(&mut self, until: Option<Instant>) {
        if self.paused_until() != until {
            self.with_rare(|rare| rare.pause.until = until);
        }
    }

    /// No pause goes on, and the next one is the first.
    pub(super) fn end_pauses(&mut self) {
        if self.rare.is_some() {
            self.with_rare(|rare| rare.pause = Pause::default());
        }
    }

    /// A possible obstacle to the registration is gone: it waits no longer, unless its SIP server has told it how long to wait.
    pub fn on_server_back(&mut self) -> Step {
        match self.state {
            State::BackingOff { told: true, .. } => Step::Nothing,
            _ => self.on_server_changed(),
        }
    }

    /// The binding may have been removed at the SIP server: it is registered again at once, and counts as registered until that is answered.
    pub fn register_again(&mut self) -> Step {
        match self.state {
            State::Registered { .. } if self.goal == Goal::Registered => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            _ => self.on_server_back(),
        }
    }

    /// Whether it may begin before its wait is over, because the SIP server grants others: once, until it has waited in full. `all`: that
    /// server had served nobody; else only one that has failed once, for the failure may be its own.
    pub fn may_hurry(&self, all: bool) -> bool {
        let waits = matches!(self.state, State::BackingOff { told: false, .. }) && self.paused_until().is_none();
        waits && self.goal == Goal::Registered && !self.hurried && (all || self.failures <= 1)
    }

    /// Begins the registration before its wait is over.
    pub fn hurry(&mut self) -> Step {
        self.hurried = true;
        self.on_server_changed()
    }

    /// Another server is there than the one that turned it away: it waits no longer.
    pub fn on_server_changed(&mut self) -> Step {
        match self.state {
            // Another address of the same server would ban as well who shows it refused credentials again.
            State::BackingOff { .. } if self.paused_until().is_none() => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            _ => Step::Nothing,
        }
    }

    /// The SIP server refuses the credentials. An account that was registered before is tried again, far apart.
    pub(super) fn credentials_refused(
        &mut self,
        now: Instant,
        status: u16,
        waits: &BackOff,
        random: &mut Random,
    ) -> Step {
        self.is_refused = !self.challenges.is_empty();
        if !self.established || self.goal != Goal::Registered {
            return self.refused(status);
        }
        let pause = if self.refusals == 0 { waits.refused_once } else { waits.refused_twice };
        self.refusals = (self.refusals + 1).min(REFUSALS_MAX);
        self.challenges.rest();
        let millis = pause.as_millis() as u64;
        let after = Duration::from_millis(random.between(millis, millis * 11 / 10));
        self.state = State::BackingOff { until: now + after, told: false };
        self.pause_until(Some(now + after));
        self.registered = false;
        Step::Failed(RegistrationFailure::CredentialsRefused { status, in_a_row: self.refusals, after })
    }

    /// The shell has no answer to a challenge. Nothing was shown, so nothing was refused of an account that was registered before.
    pub(super) fn unanswered(&mut self, now: Instant, status: u16, waits: &BackOff, random: &mut Random) -> Step {
        if !self.established || self.goal != Goal::Registered {
            return self.credentials_refused(now, status, waits, random);
        }
        self.put_off(now, status, waits, random)
    }

    /// The SIP server does not know the account, or asks for what it has not. An account that was registered before is tried again a minute later, for a
    /// server that comes back from an outage may know nobody in its first seconds; then as seldom as one whose credentials are refused, for a server may ban
    /// who repeats either, but without an end.
    pub(super) fn put_off(&mut self, now: Instant, status: u16, waits: &BackOff, random: &mut Random) -> Step {
        if !self.established || self.goal != Goal::Registered {
            return self.refused(status);
        }
        self.refusals = 0;
        self.challenges.rest();
        // Failures of the server before it say nothing of how often it was asked for this account.
        let put_offs = self.with_rare(|rare| {
            rare.pause.put_offs = rare.pause.put_offs.saturating_add(1);
            rare.pause.put_offs
        });
        let least = if put_offs == 1 { waits.unknown_once } else { waits.refused_once }.as_millis() as u64;
        let further = BackOff { max: waits.refused_twice, ..*waits };
        let least = Duration::from_millis(random.between(least, least * 11 / 10));
        let after = back_off(put_offs, &further, random).max(least);
        self.state = State::BackingOff { until: now + after, told: false };
        self.pause_until(Some(now + after));
        self.registered = false;
        Step::Failed(RegistrationFailure::Retry { status: Some(status), after })
    }

    /// Another server has taken the place of the one that was asked: what that one refused says nothing of this one.
    pub fn on_server_replaced(&mut self) -> Step {
        (self.refusals, self.is_refused) = (0, false);
        self.end_pauses();
        self.on_server_changed()
    }

    pub(super) fn refused(&mut self, status: u16) -> Step {
        self.challenges.rest();
        self.state = State::Refused;
        self.registered = false;
        match self.goal {
            Goal::Registered => Step::Failed(RegistrationFailure::Refused { status }),
            Goal::Silent | Goal::Gone => Step::Unregistered { confirmed: false },
        }
    }

    pub(super) fn on_too_brief(&mut self, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, message, terms, random } = response;
        let Some(seconds) = wanted_interval(message, self.expires) else {
            return self.retry(now, Some(status), &terms.back_off, None, random);
        };
        self.expires = seconds;
        self.write(Attempt { lengthened: true, ..attempt }, Vec::new())
    }
}

/// The lifetime that a 423 wants, in seconds, where it is longer than this and may be asked for (RFC 3261 §10.2.8).
pub(super) fn wanted_interval(response: &Message, asked: u32) -> Option<u32> {
    let wanted = response.number(Name::MinExpires);
    wanted.filter(|seconds| *seconds > asked && u64::from(*seconds) <= MIN_EXPIRES_MAX.as_secs())
}

/// Whether a 3xx names the place that it was sent to (RFC 3261 §21.3), and no other way there than the one that was taken: what is answered `sips:` is
/// not sent again in the clear.
pub(super) fn leads_to(response: &Message, registrar: &str, way: Contacts) -> bool {
    let Some(registrar) = Uri::parse(registrar) else { return false };
    let same = |uri: &Uri<'_>| {
        let same_port = uri.port == registrar.port || port_of(uri) == port_of(&registrar);
        let is_plain = uri.params.get("maddr").is_none() && uri.headers.is_none();
        uri.host.eq_ignore_ascii_case(registrar.host) && same_port && is_plain && is_by(uri, way)
    };
    response.contacts().iter().filter_map(Party::uri).any(|uri| same(&uri))
}

/// Whether a 3xx names any place.
pub(super) fn leads_anywhere(response: &Message) -> bool {
    response.contacts().iter().filter_map(Party::uri).next().is_some()
}

/// Whether a URI is reached by the transport that the last REGISTER took.
fn is_by(uri: &Uri<'_>, way: Contacts) -> bool {
    let named = uri
        .transport()
        .map(|named| CONTACT_TRANSPORTS.into_iter().find(|transport| transport.param().eq_ignore_ascii_case(named)));
    match (uri.scheme, named) {
        (Scheme::Sip, None) => true,
        (Scheme::Sip, Some(named)) => named.is_some_and(|transport| way.is_latest(transport)),
        // By TLS over TCP (RFC 3261 §26.2.2).
        (Scheme::Sips, None | Some(Some(Transport::Tcp | Transport::Tls))) => way.is_latest(Transport::Tls),
        (Scheme::Sips | Scheme::Other, _) => false,
    }
}

/// The port that a URI names, or means (RFC 3261 §19.1.2).
fn port_of(uri: &Uri<'_>) -> u16 {
    let is_secure = uri.scheme == Scheme::Sips || uri.transport().is_some_and(|it| it.eq_ignore_ascii_case("tls"));
    uri.port.unwrap_or(if is_secure { 5061 } else { 5060 })
}

/// Delta-seconds; a comment and parameters may follow (RFC 3261 §20.33).
pub(crate) fn retry_after(response: &Message) -> Option<Duration> {
    response.number(Name::RetryAfter).map(|seconds| Duration::from_secs(u64::from(seconds)).min(RETRY_AFTER_MAX))
}
