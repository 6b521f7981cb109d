//! One machine for one binding: register, refresh, 423, challenge, back-off, unregister (RFC 3261 §10.2, RFC 5626 §4).
//!
//! | state | flow up | answer | response | timer | flow lost |
//! | --- | --- | --- | --- | --- | --- |
//! | Waiting | → Asking when a challenge is known; else send | – | – | – | – |
//! | Asking (for a digest) | – | ask on, or send; none: another challenge, else as 404 | – | – | → Waiting |
//! | Sent | – | – | see below | – | → Waiting |
//! | Registered | – | – | – | refresh: → Waiting | → Waiting |
//! | BackingOff | – | – | – | → Waiting | – |
//! | Refused | – | – | – | – | – |
//! | Unregistered (it is unregistered, or cannot be) | – | – | – | – | – |
//!
//! A REGISTER that was sent becomes, by its response:
//!
//! | response | state | why |
//! | --- | --- | --- |
//! | 2xx | Registered | with the lifetime that *our* Contact has in it |
//! | 401, 407 | Asking | until the credentials are refused: see [`challenges`] |
//! | 401, 407 without a challenge that can be read, to one that was accepted before | BackingOff | no credentials were refused |
//! | 423 | Asking, once | with Min-Expires (RFC 3261 §10.2.8) |
//! | 439 | Asking, once | without outbound (RFC 5626 §11.6) |
//! | other 4xx, 6xx to a REGISTER that takes another relay's Contact away | Asking | for that alone, then for the own one: see `earlier` |
//! | the same where that may be refused credentials, or to one that takes the own Contact by another transport away | Asking, once | without that |
//! | 3xx whose Contact is the registrar itself, by the same transport | Asking, once | it moved nowhere |
//! | 3xx whose Contact is another place, to a first registration | Refused | the user is to name that one |
//! | 3xx, 408, 423, 429, 430, 439, 480, 5xx | BackingOff | at least Retry-After; the wait grows with each failure in a row, and the first one after a grant ends while that stands |
//! | silence | BackingOff | likewise |
//! | any other to a first registration, such as 403 and 404 | Refused | never again: a server may ban an address that repeats a refused request |
//! | to one whose credentials were accepted before: refused credentials, 403 | BackingOff | a server that restarts may know nobody; it is asked again after [`BackOff::refused_once`], and then each [`BackOff::refused_twice`], until the shell unbinds it: see `refusals` |
//! | to such a one: 404, 604, or a challenge that it has no answer to | BackingOff | after [`BackOff::unknown_once`], then likewise, but for ever: see [`Registration::put_off`] |
//! | 403 to its own Contact, behind the granted removal of another relay's | BackingOff | the credentials are right, and room is wanting: see `earlier` |
//! | to such a one: any other, such as 400, 410 and 477 | BackingOff | only refused credentials end an account |
//!
//! A 3xx to another place is not followed: an address that a message names is one that the operator has not allowed, and
//! the account itself is where a user says that the registrar has moved.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`challenges`] | the challenges that are answered |
//! | [`request`] | the REGISTER as it is written |
//! | `responses` | what becomes of it by its response |
//! | [`grant`] | the contents of a 2xx |
//! | `new_registration` | the facts that one begins with |
//! | `bound` | whether the registrar may have its Contact |
//! | [`crossed`] | the answers to what is not wanted any more, and a REGISTER that the last unregistration has overtaken |
//! | `late` | a REGISTER that was given up, and may be answered yet |
//! | `earlier` | other relays' Contacts, which go |
//! | `owners` | the device whose credentials answer, of several |
//! | `refusals` | the failures that are tried again, how often, and those that are final |
//! | `step` | its goals, and the steps that lead there |
//! | `trial` | whether another address of the server registers it, too |
//! | `lost_time` | time in which the machine stood still |
//!
//! When the app comes to the foreground or goes to the background while a REGISTER is under way, its answer is waited for (RFC 3261 §10.2) and then the next
//! one is sent, if the goal is another one by then: however fast the goals change, the registrar sees one REGISTER after the other, and the last one says what
//! is wanted. Only a binding that is to be forgotten does not wait, and follows what it has overtaken: see [`crossed`]. An unregistration is sent while the
//! registrar may have the Contact. Of a binding that is kept one that failed is sent again, after a wait of the same rules, as long as the Contact stands;
//! never where it would need credentials that were refused: such a Contact runs out, and is not said to be unregistered before.
//!
//! Invariant: at most one REGISTER of a binding is under way, but at its end; CSeq rises and Call-ID stays for the life of the process;
//! refused credentials are not sent again. A challenge is answered by the shell; no credential comes here.

mod bound;
pub mod challenges;
pub mod crossed;
mod earlier;
pub mod grant;
pub mod late;
mod lost_time;
mod new_registration;
mod owners;
mod refusals;
pub mod request;
mod responses;
mod step;
#[cfg(test)]
mod tests;
mod trial;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::{Challenge, Hash};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::Message;
use crate::random::Random;
use crate::timers::Armed;
use crate::timing::BackOff;

use bound::Bound;
pub use challenges::Challenger;
use challenges::Challenges;
use crossed::Overtaken;
use earlier::{Earlier, Named};
use grant::RegistrarInfo;
use late::GivenUp;
pub use new_registration::NewRegistration;
pub use owners::{Proof, Standing, SuspendedAuth};
use refusals::Pause;
pub(crate) use refusals::retry_after;
pub use request::{ContactHosts, RequestContext};
use request::{Contacts, RegisterRequest};
pub use step::{Began, Goal, REFUSALS_MAX, RegistrationFailure, Step, Turn};

/// The longest registration lifetime that is asked for or believed.
const EXPIRES_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest lifetime that is asked for.
const EXPIRES_MIN: Duration = Duration::from_secs(5);
/// The longest lifetime that is asked for because a registrar takes no shorter one (423); where it wants a longer one, nobody is registered.
pub const MIN_EXPIRES_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// The longest Retry-After that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Asking(Box<Asking>),
    /// `by`: the flow that it went by. `goal`: what was asked for.
    Sent {
        branch: BranchId,
        by: FlowId,
        attempt: Attempt,
        goal: Goal,
    },
    Registered {
        refresh_at: Instant,
    },
    /// `told`: its SIP server has named the time (Retry-After).
    BackingOff {
        until: Instant,
        told: bool,
    },
    Refused,
    /// `at`: when the SIP server said that it has no Contact of it any more.
    Unregistered {
        at: Option<Instant>,
    },
}

/// The detours that one attempt has taken.
#[derive(Clone, Copy, Debug, Default)]
struct Attempt {
    /// A 423 was followed.
    lengthened: bool,
    /// A 3xx to the registrar itself was followed.
    redirected: bool,
    /// Whether it goes to another address than the one at which the registration was granted.
    trial: bool,
    /// Which Contacts its REGISTER names.
    named: Named,
    /// Whether a REGISTER of it was granted that took another Contact away: its credentials are right.
    proven: bool,
}

/// The answers of a REGISTER that is about to be sent.
#[derive(Clone, Debug, Default)]
struct Asking {
    attempt: Attempt,
    /// The challenge that the shell is answering.
    at: usize,
    /// Other challenges of the last response, which may be answered instead.
    others: Vec<Challenge>,
    /// Answers to those before it.
    answers: Vec<(Challenger, String)>,
}

/// The rules by which a response is read.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The hashes that a digest may be made with.
    pub hashes: &'a [Hash],
    /// The Request-URI of REGISTER.
    pub registrar: &'a str,
    /// The wait after failures.
    pub back_off: BackOff,
}

/// A final response to the REGISTER that is under way, with what it is judged by.
struct FinalResponse<'a> {
    now: Instant,
    status: u16,
    message: &'a Message,
    terms: &'a Terms<'a>,
    random: &'a mut Random,
}

impl FinalResponse<'_> {
    /// Whether the server has said how long to leave it alone.
    fn has_retry_after(&self) -> bool {
        refusals::retry_after(self.message).is_some()
    }
}

/// The registration of one binding.
#[derive(Clone)]
pub struct Registration {
    /// The opaque user of the Contact.
    pub binding: BindingId,
    /// The member whose credentials answer its challenges: the one whose were accepted last.
    pub instance: InstanceId,
    /// The SIP server that its requests go to.
    pub upstream: UpstreamId,
    /// Whether and how it waits for its turn on the flow.
    pub turn: Turn,
    /// Whether its upstream counts it among the registered ones.
    pub counted: bool,
    /// The time since which its upstream counts it among those that ask.
    pub asks: Option<Began>,
    /// The timer that is set for [`Self::deadline`].
    pub armed: Armed,
    aor: Box<str>,
    sip_instance: [u8; 16],
    goal: Goal,
    state: State,
    challenges: Challenges,
    /// State that few registrations have.
    rare: Option<Box<RareState>>,
    cseq: u32,
    /// A number that distinguishes it from earlier registrations of the same Contact in the Call-ID.
    generation: u32,
    /// Requested lifetime in seconds.
    expires: u32,
    /// The lifetime that was granted last, in seconds; 0: none was in this run.
    granted_s: u16,
    failures: u8,
    /// Whether it was begun before its wait was over, and has not waited in full since.
    hurried: bool,
    /// Whether the SIP server has accepted the credentials in use before, in this run or an earlier one.
    established: bool,
    /// Refusals of the credentials in a row, of an account that is established.
    refusals: u8,
    /// Whether the registrar has asked for credentials and refused those in use, and has not accepted them since.
    is_refused: bool,
    /// Whether the server may hold the Contact.
    bound: Bound,
    /// The transports by which the Contact was registered.
    contacts: Contacts,
    /// Whether the last attempt succeeded.
    registered: bool,
    /// Whether RFC 5626 is asked for; not any more after a 439.
    outbound: bool,
}

/// State that few registrations have at a time.
#[derive(Clone, Default, PartialEq, Eq)]
struct RareState {
    /// GRUUs and Service-Route.
    info: RegistrarInfo,
    /// The pause after a refusal.
    pause: Pause,
    /// The REGISTER that was given up last.
    given_up: Option<GivenUp>,
    /// The REGISTER that the unregistration at its end has overtaken.
    overtaken: Option<Overtaken>,
    /// Until when that may be sent again.
    again_until: Option<Instant>,
    /// The relays that had this account before, until their Contacts are gone.
    earlier: Earlier,
}

impl fmt::Debug for Registration {
    /// Shows nothing of the account, nor of the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({}, {:?})", self.binding, self.goal)
    }
}

impl Registration {
    /// A binding that is not registered.
    pub fn new(new: NewRegistration) -> Self {
        let NewRegistration { binding, instance, upstream, aor, sip_instance, expires, generation, goal } = new;
        Self {
            binding,
            instance,
            upstream,
            turn: Turn::None,
            counted: false,
            asks: None,
            armed: Armed::default(),
            aor,
            sip_instance,
            goal,
            state: State::Waiting,
            challenges: Challenges::default(),
            rare: None,
            cseq: 0,
            generation,
            expires: expires.clamp(EXPIRES_MIN, EXPIRES_MAX).as_secs() as u32,
            granted_s: 0,
            failures: 0,
            hurried: false,
            established: false,
            refusals: 0,
            is_refused: false,
            bound: Bound::default(),
            contacts: Contacts::default(),
            registered: false,
            outbound: true,
        }
    }

    /// The SIP server has accepted these credentials in an earlier run, or from another relay, and may have the Contact still.
    #[must_use]
    pub fn established(self) -> Self {
        let state = if self.goal == Goal::Registered { State::Waiting } else { State::Unregistered { at: None } };
        Self { established: true, bound: Bound::earlier(), state, ..self }
    }

    /// The credentials in use are those that the SIP server has accepted of another device.
    pub fn set_established(&mut self) {
        self.established = true;
    }

    /// The address of record.
    pub fn aor(&self) -> &str {
        &self.aor
    }

    /// The state that it is to reach.
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether the last attempt succeeded.
    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// Whether an answer to a REGISTER is awaited that may register it.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Sent { goal: Goal::Registered, .. })
    }

    /// Whether an attempt is under way, whatever it asks for.
    pub fn is_asking(&self) -> bool {
        matches!(self.state, State::Sent { .. } | State::Asking(_))
    }

    /// In which order those that lost their flow register again, the least first: those that the SIP server has accepted before the others, and of
    /// these the one first whose grant ends soonest, or has ended.
    pub fn urgency(&self) -> (bool, Option<Instant>) {
        (!self.established, self.bound.granted_until())
    }

    /// Whether it may be granted by what is under way, a challenge included.
    pub fn may_be_granted(&self) -> bool {
        self.is_under_way() || matches!(self.state, State::Asking(_)) && self.goal == Goal::Registered
    }

    /// Until when it stands, as far as the SIP server has granted it.
    pub fn granted_until(&self) -> Option<Instant> {
        self.bound.granted_until()
    }

    /// The same where nothing that is under way takes it away.
    pub fn stands_until(&self) -> Option<Instant> {
        let may_go = matches!(self.state, State::Sent { goal, .. } if goal != Goal::Registered);
        let stands = self.registered && self.goal == Goal::Registered && !may_go;
        self.granted_until().filter(|_| stands)
    }

    /// Whether the registrar may have its Contact, and would take it away with the credentials in use.
    pub fn may_unregister(&self) -> bool {
        self.bound.may_stand() && !self.is_refused
    }

    /// Whether it is not registered, as it is to be, as far as can be done.
    pub fn is_silent(&self) -> bool {
        self.goal == Goal::Silent && !self.wants_flow() && !self.is_asking()
    }

    /// Whether it stands and has nothing to do but to be refreshed in time.
    pub fn awaits_refresh(&self) -> bool {
        matches!(self.state, State::Registered { .. })
    }

    /// Whether the SIP server has accepted the credentials in use before.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Values of Route of a request out of dialog for this account, in order (RFC 3608 §6.1); empty for most.
    pub fn service_route(&self) -> &[Box<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.info.service_route)
    }

    /// URIs beside the Contact that reach this binding (RFC 5627 §3.1): none for most.
    pub fn gruus(&self) -> &[Box<str>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.info.gruus)
    }

    /// Sets the goal; the step starts toward it.
    pub fn aim(&mut self, now: Instant, goal: Goal) -> Step {
        if self.goal == goal && goal != Goal::Gone {
            return Step::Nothing;
        }
        if goal != Goal::Gone {
            // Failures on the way to another goal say nothing of this one.
            (self.failures, self.hurried) = (0, false);
        }
        self.goal = goal;
        self.overtake();
        if goal != Goal::Gone && matches!(self.state, State::Sent { .. }) {
            return Step::Nothing;
        }
        self.bound.look(now);
        self.turn_round()
    }

    /// Whether it wants a flow at this moment.
    pub fn wants_flow(&self) -> bool {
        match self.state {
            State::Waiting => self.goal == Goal::Registered || self.bound.may_stand() && !self.is_refused,
            _ => false,
        }
    }

    /// The turn that it should have: before others when it stands and shall go on standing, or is to end. An unregistration that is tried again keeps
    /// nobody from being registered.
    pub fn due_turn(&self) -> Turn {
        let is_again = self.goal == Goal::Silent && self.failures > 0;
        if !is_again && self.goal != Goal::Registered || self.registered { Turn::First } else { Turn::Waiting }
    }

    /// The branch of the REGISTER that is under way.
    pub fn branch(&self) -> Option<BranchId> {
        match self.state {
            State::Sent { branch, .. } => Some(branch),
            _ => None,
        }
    }

    /// The flow is up: begin an attempt, with what the last one was asked for (RFC 7616 §3.6).
    pub fn begin(&mut self) -> Step {
        if !self.wants_flow() {
            return Step::Nothing;
        }
        self.challenges.begin();
        self.write(Attempt { named: self.first_named(), ..Attempt::default() }, Vec::new())
    }

    /// The challenge to answer, and the count of answers with its nonce, this one included.
    pub fn challenge(&mut self) -> Option<(Challenge, u32)> {
        match &self.state {
            State::Asking(asking) => self.challenges.next_answer(asking.at),
            _ => None,
        }
    }

    /// The count for an answer to a challenge of another request of its account, by whose own count it is the `nc`th (RFC 7616 §3.4).
    pub fn count_answer(&mut self, challenge: &Challenge, nc: u32) -> u32 {
        self.challenges.count(challenge, nc)
    }

    /// The shell's answer to [`Step::Ask`]; `None`: it has no credential for this challenge.
    pub fn answer(
        &mut self,
        now: Instant,
        authorization: Option<String>,
        waits: &BackOff,
        random: &mut Random,
    ) -> Step {
        let State::Asking(asking) = &mut self.state else { return Step::Nothing };
        match (authorization, self.challenges.challenger(asking.at)) {
            (Some(value), Some(challenger)) => {
                asking.answers.push((challenger, value));
                asking.at += 1;
            }
            _ => {
                if let Err(status) = self.challenges.skip(asking.at, &mut asking.others) {
                    return self.unanswered(now, status, waits, random);
                }
            }
        }
        if asking.at < self.challenges.len() { Step::Ask } else { Step::Send }
    }

    /// Writes the REGISTER.
    pub fn compose(&mut self, head: &RequestContext<'_>) -> Bytes {
        self.cseq += 1;
        let mut named = self.attempt().named;
        // Relays behind one name have one Contact.
        if named == Named::Earlier && !self.forget_earlier_at(|hosts| hosts.on(head.transport) == head.local) {
            named = Named::Own;
            if let State::Asking(asking) = &mut self.state {
                asking.attempt.named = named;
            }
        }
        if named != Named::Earlier {
            self.contacts.on_sent(head.transport, self.goal == Goal::Registered);
        }
        let answers = match &self.state {
            State::Asking(asking) => &asking.answers[..],
            _ => &[],
        };
        let request = RegisterRequest {
            binding: self.binding,
            aor: &self.aor,
            cseq: self.cseq,
            generation: self.generation,
            expires: if self.goal == Goal::Registered && named != Named::Earlier { self.expires } else { 0 },
            instance: self.sip_instance,
            outbound: self.outbound,
            earlier: if named == Named::Own { &[] } else { self.earlier_hosts() },
            is_earlier_alone: named == Named::Earlier,
            is_theirs: self.goal != Goal::Registered && !self.registered,
            is_ours_too: !self.contacts.is_none(),
            others: self.contacts.others(),
            answers,
        };
        request.write(head)
    }

    /// The attempt whose REGISTER is about to be sent.
    fn attempt(&self) -> Attempt {
        match &self.state {
            State::Asking(asking) => asking.attempt,
            _ => Attempt::default(),
        }
    }

    /// The REGISTER was sent with this branch, by this flow.
    pub fn sent(&mut self, branch: BranchId, by: FlowId) {
        let attempt = self.attempt();
        // A server without authentication may bind us at the first request.
        if attempt.named != Named::Earlier {
            self.bound.on_sent(self.goal == Goal::Registered);
        }
        self.forget_given_up();
        self.note_followed();
        self.note_named(attempt.named);
        self.state = State::Sent { branch, by, attempt, goal: self.goal };
    }

    /// The REGISTER that is under way was never answered, or could not be sent.
    pub fn on_silence(&mut self, now: Instant, branch: BranchId, wait: &BackOff, random: &mut Random) -> Step {
        match self.state {
            State::Sent { branch: waiting_for, by, goal, attempt } if waiting_for == branch => {
                if goal == self.goal {
                    let step = self.retry(now, None, wait, None, random);
                    // A late answer about another relay's Contact grants nothing.
                    if attempt.named != Named::Earlier {
                        self.give_up(now, branch, by);
                    }
                    step
                } else {
                    self.turn_round()
                }
            }
            _ => Step::Nothing,
        }
    }

    /// The flow is gone: register again by the next one, without counting it as a failure of the account.
    pub fn on_flow_lost(&mut self) -> Step {
        match self.state {
            State::Registered { .. } | State::Sent { .. } | State::Asking(_) => {
                self.state = self.due_state();
                if self.wants_flow() { Step::WantFlow } else { Step::Nothing }
            }
            State::Waiting | State::BackingOff { .. } | State::Refused | State::Unregistered { .. } => Step::Nothing,
        }
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Registered { refresh_at } => Some(refresh_at),
            State::BackingOff { until, .. } => Some(until),
            _ => None,
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant) -> Step {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Step::Nothing;
        }
        self.state = State::Waiting;
        self.hurried = false;
        // An unregistration that is tried again ends no pause of the registration.
        if self.goal == Goal::Registered || self.paused_until().is_some_and(|until| until <= now) {
            self.pause_until(None);
        }
        Step::WantFlow
    }

    /// Sends, with the answers to all challenges that are known.
    fn write(&mut self, attempt: Attempt, others: Vec<Challenge>) -> Step {
        self.state = State::Asking(Box::new(Asking { attempt, others, ..Asking::default() }));
        if self.challenges.is_empty() { Step::Send } else { Step::Ask }
    }

    /// Toward another goal.
    fn turn_round(&mut self) -> Step {
        self.state = self.due_state();
        match self.state {
            State::BackingOff { .. } => Step::Nothing,
            _ if self.wants_flow() => Step::WantFlow,
            _ => Step::Unregistered { confirmed: !self.bound.may_stand() },
        }
    }

    /// The state of one that is to do something: refused credentials are not shown before their time.
    fn due_state(&self) -> State {
        match self.paused_until().filter(|_| self.goal == Goal::Registered) {
            Some(until) => State::BackingOff { until, told: false },
            None => State::Waiting,
        }
    }

    /// Changes what few have; nothing is kept of one that has nothing of it.
    fn with_rare<T>(&mut self, change: impl FnOnce(&mut RareState) -> T) -> T {
        let mut rare = self.rare.take().unwrap_or_default();
        let told = change(&mut rare);
        self.rare = Some(rare).filter(|rare| **rare != RareState::default());
        told
    }
}
