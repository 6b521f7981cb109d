//! Proofs for a SIP server in what a device sends by other methods than REGISTER, outside dialogs and in them: each is a guess as good as one in a
//! REGISTER ([`super::forwarded_registers`]), and the shell counts it with those.
//!
//! | a request for its SIP server holds | and |
//! | --- | --- |
//! | no credentials, or a `Bearer` | passes |
//! | a Digest of the user whose proof the server has last taken in a REGISTER of this very registration | passes; where the server refuses it, the next is asked for |
//! | a Digest of any other user, several, Basic | waits for the shell's word: it passes, or is 503 with Retry-After |
//! | the same, and is an emergency call that the shell refuses | passes without its credentials: its SIP server may let it |
//!
//! A 401, 403 or 407 to what was asked for is a wrong proof. Any other answer says nothing: a server may have given it before it looked at the proof, and
//! a party of a dialog may be the guesser. A right one is told by the next REGISTER. With the first 18x the proof is no longer under way, for its server
//! has let the call pass, and that may ring for minutes.
//!
//! Invariant: no request with a proof of another user than its registration's own goes to a SIP server without the shell's word, and each word is
//! followed by one [`ProofStep::Ended`] at the most. No user name is printed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Instant;

use super::forwarded_registers::USERNAMES_MAX;
use super::outgoing::is_emergency;
use super::pushed::{CarriedProofId, ProofRequest, ProofStep};
use super::requests::reply_flow;
use super::{Endpoint, Event, Source};
use crate::auth::{digest_names, usernames};
use crate::edge::own_proof::{self, Sender};
use crate::edge::returned::is_stale;
use crate::id::InstanceId;
use crate::message::{Composer, Limits, Message, Name};
use crate::transaction::{Reply, RequestKey, ServerId};

/// Requests of one shard that wait for the shell's word; a further one is answered 503.
const HELD_MAX: usize = 4_096;

/// The proofs that are under way, and those that need none.
#[derive(Default)]
pub(super) struct CarriedProofs {
    last: u64,
    /// Requests that wait for the shell's word.
    held: BTreeMap<CarriedProofId, (Source, Message)>,
    /// The one that has it, until it is sent on.
    admitted: Option<CarriedProofId>,
    /// Those that were sent on.
    sent: BTreeMap<ServerId, CarriedProofId>,
    /// The user whose proof was taken last in a REGISTER of a registration.
    own: HashMap<InstanceId, Box<str>>,
}

impl CarriedProofs {
    /// How many requests wait, or are under way.
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.sent.len()
    }

    /// The SIP server has taken the proof in a REGISTER of this registration; of several users it does not say whose.
    pub(super) fn note_taken(&mut self, instance: InstanceId, register: &Message) {
        let names = usernames(own_proof::of_others(register, Sender::Passing), USERNAMES_MAX).unwrap_or_default();
        let mut names = names.into_iter();
        if let (Some(name), None) = (names.next(), names.next()) {
            self.own.insert(instance, name);
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
        let Some(names) = usernames(values(), USERNAMES_MAX) else {
            self.refuse(now, reply, request, 400);
            return true;
        };
        let is_own = self.proofs.own.get(&instance).is_some_and(|own| names.iter().all(|name| name == own));
        if names.is_empty() && values().all(is_bearer) || !names.is_empty() && is_own {
            return false;
        }
        let Some(upstream) = self.server_of(instance).filter(|_| self.proofs.held.len() < HELD_MAX) else {
            self.busy(reply, request);
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
        match word {
            Ok(()) => {
                self.proofs.admitted = Some(id);
                self.judge_request(now, source, request);
                if let Some(id) = self.proofs.admitted.take() {
                    self.core.event(Event::Proof(ProofStep::Ended { proof: id, refused: false }));
                }
            }
            Err(_) if is_emergency(&request) => {
                let bare = own_proof::take_all(request.edit()).finish();
                if let Ok(bare) = Message::parse(&bare, &Limits::COMPOSED) {
                    self.judge_request(now, source, bare);
                }
            }
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

    /// The request that has the shell's word, if one has, is sent on, or waits for a flow.
    pub(super) fn note_admitted_as(&mut self, server: ServerId) {
        if let Some(id) = self.proofs.admitted.take() {
            self.proofs.sent.insert(server, id);
        }
    }

    /// A request is answered, by its SIP server with this.
    pub(super) fn end_carried_proof(&mut self, server: ServerId, answer: Option<&Message>) {
        let Some(proof) = self.proofs.sent.remove(&server) else {
            return self.note_own_refused(server, answer);
        };
        let refused = answer.is_some_and(|it| matches!(it.status(), Some(401 | 403 | 407)) && !is_stale(it));
        self.core.event(Event::Proof(ProofStep::Ended { proof, refused }));
    }

    /// A call rings behind its SIP server: others of its user need not wait for its end.
    pub(super) fn end_ringing_proof(&mut self, server: ServerId) {
        if let Some(proof) = self.proofs.sent.remove(&server) {
            self.core.event(Event::Proof(ProofStep::Ended { proof, refused: false }));
        }
    }

    /// A registration's own user is refused: what comes next with its name is asked for. A server that asks for the proof of another realm, behind the
    /// registration's own, does not say so; nor does a 403, which a number that is barred has, too.
    fn note_own_refused(&mut self, server: ServerId, answer: Option<&Message>) {
        let challenge = answer.and_then(|answer| match answer.status() {
            Some(401) => Some((answer, Name::Authorization, Name::WwwAuthenticate)),
            Some(407) => Some((answer, Name::ProxyAuthorization, Name::ProxyAuthenticate)),
            _ => None,
        });
        let Some((answer, proof, challenge)) = challenge else { return };
        let Some(device) = self.dialogs.device_of(server).map(|device| self.current(device)) else { return };
        let Some(asked) = self.core.transactions.asked_by(server).filter(|asked| asked.has(proof)) else { return };
        let realms = |message: &Message, name| -> Option<Vec<String>> {
            let realm = |value| Some(digest_names(std::str::from_utf8(value).ok()?)?.0.into_owned());
            message.values(name).map(realm).collect()
        };
        let is_another = match (realms(asked, proof), realms(answer, challenge)) {
            (Some(proved), Some(asked)) => !asked.iter().any(|realm| proved.contains(realm)),
            _ => false,
        };
        if !is_another && !is_stale(answer) {
            self.proofs.forget(device);
        }
    }
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
