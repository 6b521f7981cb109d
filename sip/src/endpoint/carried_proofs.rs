//! Proofs for a SIP server in requests of a device other than REGISTER, outside of dialogs and in them. Each lets a device guess a password as a REGISTER does
//! ([`super::forwarded_registers`]), and the shell counts it with those.
//!
//! | a request for its SIP server holds | consequence |
//! | --- | --- |
//! | no credentials, or a `Bearer` | passes |
//! | a Digest of the user and the realm whose proof the server last accepted in a REGISTER of this very registration | passes, until [`OWN_REFUSALS`] in a row were refused |
//! | a Digest of any other user, several, Basic | waits for the shell's decision: it passes, or gets 503 with Retry-After |
//! | the same, but it is an emergency call, a BYE or a PRACK, and the shell does not let it pass | passes without its credentials: its SIP server may accept it, or asks for them |
//!
//! The answer 401, 403 or 407 shows a wrong proof. Any other answer shows nothing: a server may have given it before it looked at the proof, and a party of a
//! dialog may be the guesser. The next REGISTER shows a right one. The first 18x ends the wait for the verdict on a proof, because the server has accepted the
//! call, which may ring for minutes.
//!
//! A user who was accepted in a REGISTER knows the password, and has nothing to guess: a server may want a fresh nonce for each request, or bar a number (403),
//! and in a dialog the other party may be the one that refuses. The last two do not count against that user.
//!
//! Invariant: no request with a proof of another user than its registration's own goes to a SIP server without the shell's decision, and each decision is
//! followed by at most one [`ProofStep::Ended`]. No user name is printed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Instant;

use super::forwarded_registers::USERNAMES_MAX;
use super::outgoing::is_emergency;
use super::pushed::{CarriedProofId, ProofRequest, ProofStep};
use super::requests::{is_in_dialog, reply_flow};
use super::{Endpoint, Event, Source};
use crate::auth::{digest_names, usernames};
use crate::edge::own_proof::{self, Sender};
use crate::edge::returned::is_stale;
use crate::id::InstanceId;
use crate::message::{Composer, Limits, Message, Method, Name};
use crate::transaction::{Reply, RequestKey, ServerId};

/// Requests of one shard that wait for the shell's word; a further one is answered 503.
const HELD_MAX: usize = 4_096;
/// Proofs of a registration's own user that its SIP server may refuse one after the other: a desk phone that watches a few hundred others may show all of
/// them an old nonce before it hears of it. From then on its password may be another one for what is no REGISTER.
const OWN_REFUSALS: u16 = 600;

/// The proofs that are under way, and those that need none.
#[derive(Default)]
pub(super) struct CarriedProofs {
    last: u64,
    /// Requests that wait for the shell's word.
    held: BTreeMap<CarriedProofId, (Source, Message)>,
    /// The request that was let through, until it is sent on.
    admitted: Option<CarriedProofId>,
    /// Requests that were sent on.
    sent: BTreeMap<ServerId, CarriedProofId>,
    /// The user whose proof was taken last in a REGISTER of a registration.
    own: HashMap<InstanceId, Own>,
}

/// A user whose proof was taken in a REGISTER.
struct Own {
    name: Box<str>,
    /// The realms of the proofs in it: a server of several domains may look a user up by the realm, and the same name in another realm is another user.
    realms: BTreeSet<Box<str>>,
    /// Proofs in a row that were refused since, outside dialogs.
    refusals: u16,
}

impl Own {
    /// Whether all credentials of a request that are for others are of this user.
    fn is_all_in(&self, request: &Message, sender: Sender) -> bool {
        own_proof::of_others(request, sender).all(|value| {
            let names = usernames(std::iter::once(value), USERNAMES_MAX);
            let is_own_name = names.is_some_and(|names| names.len() == 1 && names.contains(&self.name));
            is_own_name && realm_of(value).is_some_and(|realm| self.realms.contains(&realm))
        })
    }
}

impl CarriedProofs {
    /// How many requests wait, or are under way.
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.sent.len()
    }

    /// The SIP server has taken the proof in a REGISTER of this registration; of several users it does not say whose.
    pub(super) fn note_taken(&mut self, instance: InstanceId, register: &Message) {
        let mut names = names_in(register, Sender::Passing).unwrap_or_default().into_iter();
        if let (Some(name), None) = (names.next(), names.next()) {
            let realms = own_proof::of_others(register, Sender::Passing).filter_map(realm_of).collect();
            self.own.insert(instance, Own { name, realms, refusals: 0 });
        }
    }

    /// A registration is no more.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.own.remove(&instance);
    }
}

impl Endpoint {
    /// Whether a request of a device for its SIP server goes no further for now: it carries a proof that the shell is asked about, or that nobody can
    /// count.
    pub(super) fn awaits_word(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        request: &Message,
        instance: InstanceId,
    ) -> bool {
        if self.proofs.admitted.is_some() {
            return false;
        }
        let sender = if self.push_bindings.knows(instance) { Sender::Passing } else { Sender::Lent };
        let values = || own_proof::of_others(request, sender);
        if values().next().is_none() {
            return false;
        }
        let Some(names) = names_in(request, sender) else {
            if may_go_bare(request) {
                self.pass_bare(now, source, request);
            } else {
                self.refuse(now, reply, request, 400);
            }
            return true;
        };
        let own = self.proofs.own.get(&instance).filter(|own| own.refusals < OWN_REFUSALS);
        if names.is_empty() && values().all(is_bearer) || own.is_some_and(|own| own.is_all_in(request, sender)) {
            return false;
        }
        let Some(upstream) = self.server_of(instance).filter(|_| self.proofs.held.len() < HELD_MAX) else {
            if may_go_bare(request) {
                self.pass_bare(now, source, request);
            } else {
                self.busy(reply, request);
            }
            return true;
        };
        self.proofs.last += 1;
        let id = CarriedProofId(self.proofs.last);
        self.proofs.held.insert(id, (source, request.clone()));
        let aor = self.push_bindings.aor_of(instance).map_or_else(|| instance.to_string().into(), Box::from);
        let usernames = names.into_iter().collect();
        let asked = ProofRequest { proof: id, aor, upstream, source: source.peer.ip(), usernames };
        self.core.event(Event::Proof(ProofStep::Asked(Box::new(asked))));
        true
    }

    /// The shell's word for a request: it may pass, or so many seconds are to be waited.
    pub(super) fn on_proof_admitted(&mut self, now: Instant, id: CarriedProofId, word: Result<(), u32>) {
        let Some((source, request)) = self.proofs.held.remove(&id) else { return };
        if let Some(left) = self.proofs.admitted.take() {
            // A fault of the relay has left it.
            self.core.event(Event::Proof(ProofStep::Ended { proof: left, refused: false }));
        }
        match word {
            Ok(()) => {
                self.proofs.admitted = Some(id);
                self.judge_request(now, source, request);
                if let Some(id) = self.proofs.admitted.take() {
                    self.core.event(Event::Proof(ProofStep::Ended { proof: id, refused: false }));
                }
            }
            Err(_) if may_go_bare(&request) => self.pass_bare(now, source, &request),
            Err(seconds) => {
                let via = request.via();
                let key = RequestKey::of(&request, via.as_ref(), source.side);
                let reply = Reply { flow: reply_flow(&source, via.as_ref()), side: source.side, key: &key };
                let tag = self.core.random.tag();
                let response = Composer::response(&request, 503, Composer::reason(503), Some(&tag));
                let response = response.header(Name::RetryAfter, seconds).finish();
                self.respond_once(now, reply, &request, 503, response);
            }
        }
    }

    /// Passes a request without its credentials.
    fn pass_bare(&mut self, now: Instant, source: Source, request: &Message) {
        let bare = own_proof::take_all(request.edit()).finish();
        if let Ok(bare) = Message::parse(&bare, &Limits::COMPOSED) {
            self.judge_request(now, source, bare);
        }
    }

    /// The request that has the shell's word, if one has, is sent on, or waits for a flow.
    pub(super) fn note_admitted_as(&mut self, server: ServerId) {
        if let Some(id) = self.proofs.admitted.take() {
            self.proofs.sent.insert(server, id);
        }
    }

    /// A request is answered, by its SIP server with this.
    pub(super) fn end_carried_proof(&mut self, server: ServerId, answer: Option<&Message>) {
        let is_excused = answer.is_some_and(|answer| self.note_own_answered(server, answer));
        let Some(proof) = self.proofs.sent.remove(&server) else { return };
        let refused = answer.is_some_and(|it| matches!(it.status(), Some(401 | 403 | 407)) && !is_stale(it));
        self.core.event(Event::Proof(ProofStep::Ended { proof, refused: refused && !is_excused }));
    }

    /// A call rings behind its SIP server: others of its user need not wait for its end.
    pub(super) fn end_ringing_proof(&mut self, server: ServerId) {
        if let Some(proof) = self.proofs.sent.remove(&server) {
            self.core.event(Event::Proof(ProofStep::Ended { proof, refused: false }));
        }
    }

    /// What an answer says of the registration's own user, if the request has his proof; whether it counts against nobody. A server that asks for the
    /// proof of another realm, behind the registration's own, does not say that this one is wrong.
    fn note_own_answered(&mut self, server: ServerId, answer: &Message) -> bool {
        let Some(device) = self.dialogs.device_of(server).map(|device| self.current(device)) else { return false };
        let Some(own) = self.proofs.own.get_mut(&device) else { return false };
        let Some(asked) = self.core.transactions.asked_by(server) else { return false };
        let has_any = own_proof::of_others(asked, Sender::Passing).next().is_some();
        if !has_any || !own.is_all_in(asked, Sender::Passing) {
            return false;
        }
        let (proof, challenge) = match answer.status() {
            Some(403) => return true,
            Some(401 | 407) if is_in_dialog(asked) => return true,
            Some(401) => (Name::Authorization, Name::WwwAuthenticate),
            Some(407) => (Name::ProxyAuthorization, Name::ProxyAuthenticate),
            // The other party was reached, but by OPTIONS, which many a server answers whoever asks.
            Some(200..=299 | 480 | 486 | 487 | 600 | 603)
                if !is_in_dialog(asked) && asked.method() != Some(Method::Options) =>
            {
                own.refusals = 0;
                return false;
            }
            _ => return false,
        };
        let realms =
            |message: &Message, name| -> Option<Vec<Box<str>>> { message.values(name).map(realm_of).collect() };
        let is_another = match (realms(asked, proof), realms(answer, challenge)) {
            (Some(proved), Some(asked)) => !asked.iter().any(|realm| proved.contains(realm)),
            _ => false,
        };
        if asked.has(proof) && !is_another && !is_stale(answer) {
            own.refusals = (own.refusals + 1).min(OWN_REFUSALS);
        }
        false
    }
}

/// The user names of the credentials of a request that are for others; `None`: they cannot be counted.
fn names_in(request: &Message, sender: Sender) -> Option<BTreeSet<Box<str>>> {
    usernames(own_proof::of_others(request, sender), USERNAMES_MAX)
}

/// The realm of a Digest.
fn realm_of(value: &[u8]) -> Option<Box<str>> {
    Some(digest_names(std::str::from_utf8(value).ok()?)?.0.into())
}

/// Whether a request passes without its credentials where it may not pass with them. A phone whose BYE is refused ends its side all the same (RFC 3261
/// §15.1.1), and the other party would stay in the call.
fn may_go_bare(request: &Message) -> bool {
    is_emergency(request) || matches!(request.method(), Some(Method::Bye | Method::Prack))
}

/// Whether credentials are a token (RFC 8898), which names no user.
fn is_bearer(value: &[u8]) -> bool {
    value.split_first_chunk().is_some_and(|(scheme, _): (&[u8; 6], _)| scheme.eq_ignore_ascii_case(b"Bearer"))
}

impl fmt::Debug for CarriedProofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarriedProofs")
            .field("held", &self.held.len())
            .field("sent", &self.sent)
            .finish_non_exhaustive()
    }
}
