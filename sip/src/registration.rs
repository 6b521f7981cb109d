//! One machine for one binding: register, refresh, 423, challenge, back-off, unregister (RFC 3261 §10.2, RFC 5626 §4).
//!
//! | state | flow up | response | timer | flow lost |
//! | --- | --- | --- | --- | --- |
//! | Waiting | send | – | – | – |
//! | Asking (for a digest) | – | – | – | → Waiting |
//! | Sent | – | 2xx → Registered · 401 → Asking · 423 → Sent · final → Refused · else → BackingOff | – | → Waiting |
//! | Registered | – | – | refresh: send | → Waiting |
//! | BackingOff | send | – | send | → BackingOff |
//! | Refused | – | – | – | – |
//!
//! Invariant: at most one REGISTER of a binding is under way; CSeq rises and Call-ID stays for the life of the process;
//! credentials that were refused are not offered again, nor in another realm than at first. A challenge is answered by the shell; no credential comes here.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::{Challenge, Hash};
use crate::flow::{Transport, back_off};
use crate::id::{BindingId, BranchId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method, Name};
use crate::random::Random;

/// Why a registration attempt failed, by what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationFailure {
    /// The SIP server refuses this account; it is not tried again.
    Refused {
        /// Its status.
        status: u16,
    },
    /// No answer, no connection, or a failure of the server; it is tried again after this long.
    Retry {
        /// The status, if there was an answer.
        status: Option<u16>,
        /// The wait.
        after: Duration,
    },
}

/// The longest registration lifetime that is asked for or believed; a registrar that grants more is refreshed at this.
const EXPIRES_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest lifetime that is believed, so that a hostile registrar cannot make the relay spin.
const EXPIRES_MIN: Duration = Duration::from_secs(5);
/// Challenges that one attempt answers; beyond them the attempt has failed (a registrar that calls every nonce stale).
const CHALLENGES_MAX: u8 = 3;
/// The longest Retry-After that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What a binding is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Registered.
    Registered,
    /// Unregistered, but kept: the app is in the foreground.
    Silent,
    /// Unregistered and forgotten.
    Gone,
}

#[derive(Debug)]
enum State {
    Waiting,
    Asking(Attempt),
    Sent { branch: BranchId, attempt: Attempt },
    Registered { refresh_at: Instant },
    BackingOff { until: Instant },
    Refused,
}

/// One REGISTER and what its challenges made of it.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    /// The answer in it is to a challenge of this very attempt.
    answered: bool,
    /// Challenges answered so far.
    challenges: u8,
    /// A 423 was followed.
    lengthened: bool,
    /// The challenge was a proxy's (407).
    proxy: bool,
}

/// What the endpoint does next for a binding.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// It wants its flow: dial the upstream unless it is up.
    WantFlow,
    /// Compose and send a REGISTER; then call [`Registration::sent`].
    Send {
        /// The Authorization value, if there is one.
        authorization: Option<String>,
    },
    /// Ask the shell for a digest with [`Registration::challenge`].
    Ask,
    /// The registration stands.
    Registered {
        /// For how long.
        expires: Duration,
        /// Whether it stood before.
        refresh: bool,
    },
    /// The attempt failed.
    Failed(RegistrationFailure),
    /// The SIP server has no registration of it any more.
    Unregistered {
        /// Whether the server said so.
        confirmed: bool,
    },
}

/// The registration of one binding.
#[derive(Debug)]
pub struct Registration {
    /// The opaque user of the Contact.
    pub binding: BindingId,
    /// The device that its calls are for.
    pub instance: InstanceId,
    /// Where its requests go.
    pub upstream: UpstreamId,
    aor: Box<str>,
    sip_instance: [u8; 16],
    goal: Goal,
    state: State,
    challenge: Option<Box<Challenge>>,
    nc: u32,
    cseq: u32,
    /// Requested lifetime in seconds.
    expires: u32,
    failures: u8,
    /// The server may hold a Contact of ours.
    maybe_there: bool,
    /// The last attempt succeeded.
    stands: bool,
    /// Another binding has its instance.
    superseded: bool,
}

/// What a REGISTER is written with.
#[derive(Debug)]
pub struct Letterhead<'a> {
    /// Request-URI.
    pub registrar: &'a str,
    /// Transport of the flow.
    pub transport: Transport,
    /// `host:port` of this relay on that transport.
    pub local: &'a str,
    /// The client transaction.
    pub branch: BranchId,
    /// A tag that stays for the life of the endpoint; makes Call-ID and From tag its own after a restart.
    pub epoch: &'a str,
}

impl Registration {
    /// A binding that was never registered by this process.
    pub fn new(
        binding: BindingId,
        instance: InstanceId,
        upstream: UpstreamId,
        aor: Box<str>,
        sip_instance: [u8; 16],
        expires: Duration,
        register: bool,
    ) -> Self {
        Self {
            binding,
            instance,
            upstream,
            aor,
            sip_instance,
            goal: if register { Goal::Registered } else { Goal::Silent },
            state: State::Waiting,
            challenge: None,
            nc: 0,
            cseq: 0,
            expires: expires.clamp(EXPIRES_MIN, EXPIRES_MAX).as_secs() as u32,
            failures: 0,
            maybe_there: false,
            stands: false,
            superseded: false,
        }
    }

    /// Another binding has taken its `+sip.instance` over: from now on it names its Contact alone.
    pub fn supersede(&mut self) {
        self.superseded = true;
    }

    /// What it is meant to be.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Sets the goal; the step starts toward it.
    pub fn aim(&mut self, goal: Goal) -> Step {
        if self.goal == goal && goal != Goal::Gone {
            return Step::Nothing;
        }
        self.goal = goal;
        match goal {
            Goal::Registered => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            Goal::Silent | Goal::Gone if !self.maybe_there => {
                self.state = State::Waiting;
                Step::Unregistered { confirmed: true }
            }
            Goal::Silent | Goal::Gone => {
                self.state = State::Waiting;
                Step::WantFlow
            }
        }
    }

    /// Whether it wants a flow at this moment.
    pub fn wants_flow(&self) -> bool {
        match self.state {
            State::Waiting => self.goal == Goal::Registered || self.maybe_there,
            _ => false,
        }
    }

    /// The branch of the REGISTER that is under way.
    pub fn branch(&self) -> Option<BranchId> {
        match self.state {
            State::Sent { branch, .. } => Some(branch),
            _ => None,
        }
    }

    /// The flow is up: begin an attempt, with the nonce of the last one if there is one (RFC 7616 §3.6).
    pub fn begin(&mut self) -> Step {
        if !self.wants_flow() {
            return Step::Nothing;
        }
        let proxy = false;
        if self.challenge.is_some() {
            self.state = State::Asking(Attempt { proxy, ..Attempt::default() });
            return Step::Ask;
        }
        Step::Send { authorization: None }
    }

    /// The challenge to answer, and the count of answers with its nonce, this one included.
    pub fn challenge(&mut self) -> Option<(&Challenge, u32)> {
        self.nc = self.nc.saturating_add(1);
        let nc = self.nc;
        self.challenge.as_deref().map(|challenge| (challenge, nc))
    }

    /// The shell's answer to [`Step::Ask`]; `None`: it has no credential for this challenge.
    pub fn answer(&mut self, authorization: Option<String>) -> Step {
        if !matches!(self.state, State::Asking(_)) {
            return Step::Nothing;
        }
        match authorization {
            Some(authorization) => Step::Send { authorization: Some(authorization) },
            None => self.refused(401),
        }
    }

    /// Writes the REGISTER (RFC 3261 §10.2, RFC 5626 §4.2).
    pub fn compose(&mut self, head: &Letterhead<'_>, authorization: Option<&str>) -> Bytes {
        self.cseq += 1;
        let expires = if self.goal == Goal::Registered { self.expires } else { 0 };
        let (binding, transport, epoch) = (self.binding, head.transport, head.epoch);
        let param = match transport {
            Transport::Udp => String::new(),
            other => format!(";transport={}", other.param()),
        };
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        let instance = match self.superseded {
            true => String::new(),
            false => format!(";+sip.instance=\"<urn:uuid:{}>\";reg-id=1", Uuid(self.sip_instance)),
        };
        let contact = format!("<sip:{binding}@{}{param}>{instance};expires={expires}", head.local);
        let answer_in = match self.state {
            State::Asking(Attempt { proxy: true, .. }) => Name::ProxyAuthorization,
            _ => Name::Authorization,
        };
        Composer::request(Method::Register, head.registrar)
            .header(Name::Via, format_args!("SIP/2.0/{} {};branch={}{rport}", transport.via(), head.local, head.branch))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<{}>;tag={epoch}", self.aor))
            .header(Name::To, format_args!("<{}>", self.aor))
            .header(Name::CallId, format_args!("{binding}.{epoch}"))
            .header(Name::CSeq, format_args!("{} REGISTER", self.cseq))
            .header(Name::Contact, contact)
            .header(Name::Expires, expires)
            .header(Name::Supported, "path, outbound, gruu")
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")))
            .maybe(answer_in, authorization)
            .finish()
    }

    /// The REGISTER was sent with this branch.
    pub fn sent(&mut self, branch: BranchId, authorized: bool) {
        let attempt = match self.state {
            State::Asking(attempt) => Attempt { answered: attempt.challenges > 0 && authorized, ..attempt },
            _ => Attempt::default(),
        };
        // A server without authentication may bind us at the first request.
        self.maybe_there = true;
        self.state = State::Sent { branch, attempt };
    }

    /// A response to the REGISTER that is under way.
    pub fn on_response(&mut self, now: Instant, branch: BranchId, response: &Message, random: &mut Random) -> Step {
        let State::Sent { branch: waiting_for, attempt } = self.state else { return Step::Nothing };
        let Some(status) = response.status().filter(|status| *status >= 200 && branch == waiting_for) else {
            return Step::Nothing;
        };
        match status {
            200..300 => self.on_success(now, response, random),
            401 | 407 => self.on_challenge(now, status, attempt, response, random),
            423 if self.goal == Goal::Registered && !attempt.lengthened => {
                self.on_too_brief(now, attempt, response, random)
            }
            408 | 429 | 480 | 423 | 300..=399 | 500..=599 => {
                self.retry(now, Some(status), retry_after(response), random)
            }
            _ => self.refused(status),
        }
    }

    /// The REGISTER that is under way was never answered, or its flow broke; `lost`: the flow is gone.
    pub fn on_silence(&mut self, now: Instant, branch: BranchId, random: &mut Random) -> Step {
        match self.state {
            State::Sent { branch: waiting_for, .. } if waiting_for == branch => self.retry(now, None, None, random),
            _ => Step::Nothing,
        }
    }

    /// The flow is gone: register again by the next one, without counting it as a failure of the account.
    pub fn on_flow_lost(&mut self) -> Step {
        match self.state {
            State::Registered { .. } | State::Sent { .. } | State::Asking(_) => {
                self.state = State::Waiting;
                if self.wants_flow() { Step::WantFlow } else { Step::Nothing }
            }
            State::Waiting | State::BackingOff { .. } | State::Refused => Step::Nothing,
        }
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Registered { refresh_at } => Some(refresh_at),
            State::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant) -> Step {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Step::Nothing;
        }
        self.state = State::Waiting;
        Step::WantFlow
    }

    fn on_success(&mut self, now: Instant, response: &Message, random: &mut Random) -> Step {
        if self.goal != Goal::Registered {
            self.maybe_there = false;
            self.stands = false;
            self.state = State::Waiting;
            return Step::Unregistered { confirmed: true };
        }
        let granted = self.granted(response);
        if granted.is_zero() {
            return self.retry(now, response.status(), None, random);
        }
        let expires = granted.clamp(EXPIRES_MIN, EXPIRES_MAX);
        let refresh = std::mem::replace(&mut self.stands, true);
        self.failures = 0;
        // Early enough for a second try, and never the same moment for all.
        let millis = expires.as_millis() as u64;
        let refresh_at = now + Duration::from_millis(random.between(millis * 70 / 100, millis * 85 / 100));
        self.state = State::Registered { refresh_at };
        Step::Registered { expires, refresh }
    }

    /// The lifetime that a 2xx grants to *our* Contact (RFC 3261 §10.2.4).
    fn granted(&self, response: &Message) -> Duration {
        let contacts = response.contacts().unwrap_or_default();
        let text = self.binding.to_string();
        let ours = contacts.iter().find(|contact| contact.uri.user == Some(text.as_str()));
        let param = ours.and_then(|contact| contact.params.value("expires")).and_then(|value| value.parse().ok());
        let seconds = param.or_else(|| response.number(Name::Expires)).unwrap_or(self.expires);
        Duration::from_secs(u64::from(seconds))
    }

    fn on_challenge(
        &mut self,
        now: Instant,
        status: u16,
        attempt: Attempt,
        response: &Message,
        random: &mut Random,
    ) -> Step {
        let name = if status == 401 { Name::WwwAuthenticate } else { Name::ProxyAuthenticate };
        // A comma separates parameters here as well as challenges, so each line is one value (RFC 3261 §7.3.1).
        // A server that was answered in one realm gets no digest of another (RFC 7616 §5.8): that would be one made for
        // somebody else.
        let pinned = self.challenge.as_deref().map(|earlier| &earlier.realm);
        let is_pinned = |value: &str| pinned.is_none_or(|realm| Challenge::parse(value).is_ok_and(|c| c.realm == *realm));
        let values = response.values(name).filter_map(|value| std::str::from_utf8(value).ok());
        let values = values.filter(|value| is_pinned(value));
        let Some(challenge) = Challenge::topmost_supported(values, &[Hash::Sha512_256, Hash::Sha256, Hash::Md5]) else {
            return self.refused(status);
        };
        if attempt.answered && !challenge.stale {
            return self.refused(status);
        }
        if attempt.challenges >= CHALLENGES_MAX {
            return self.retry(now, Some(status), None, random);
        }
        self.challenge = Some(Box::new(challenge));
        self.nc = 0;
        self.state = State::Asking(Attempt { challenges: attempt.challenges + 1, proxy: status == 407, ..attempt });
        Step::Ask
    }

    fn on_too_brief(&mut self, now: Instant, attempt: Attempt, response: &Message, random: &mut Random) -> Step {
        let wanted = response
            .number(Name::MinExpires)
            .filter(|seconds| *seconds > self.expires && u64::from(*seconds) <= EXPIRES_MAX.as_secs());
        let Some(seconds) = wanted else { return self.retry(now, Some(423), None, random) };
        self.expires = seconds;
        let attempt = Attempt { lengthened: true, answered: false, ..attempt };
        self.state = State::Asking(attempt);
        if self.challenge.is_some() { Step::Ask } else { Step::Send { authorization: None } }
    }

    fn retry(&mut self, now: Instant, status: Option<u16>, wait: Option<Duration>, random: &mut Random) -> Step {
        if self.goal != Goal::Registered {
            self.state = State::Waiting;
            self.maybe_there = false;
            return Step::Unregistered { confirmed: false };
        }
        self.failures = self.failures.saturating_add(1);
        let after = back_off(self.failures, random).max(wait.unwrap_or_default());
        self.state = State::BackingOff { until: now + after };
        self.stands = false;
        Step::Failed(RegistrationFailure::Retry { status, after })
    }

    fn refused(&mut self, status: u16) -> Step {
        self.challenge = None;
        self.state = State::Refused;
        self.maybe_there = false;
        self.stands = false;
        match self.goal {
            Goal::Registered => Step::Failed(RegistrationFailure::Refused { status }),
            Goal::Silent | Goal::Gone => Step::Unregistered { confirmed: false },
        }
    }
}

fn retry_after(response: &Message) -> Option<Duration> {
    response.number(Name::RetryAfter).map(|seconds| Duration::from_secs(u64::from(seconds)).min(RETRY_AFTER_MAX))
}

/// A UUID's text form (RFC 9562 §4).
struct Uuid([u8; 16]);

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
