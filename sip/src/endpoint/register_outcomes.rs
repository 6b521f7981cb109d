//! How REGISTERs that were to pass through ended, for whoever watches the relay.
//!
//! Invariant: a REGISTER about no registration that is known here never counts as a failed refresh, because anybody may send as many as he likes.

use super::Endpoint;
use super::pushed::RegisterOutcome;
use super::register_table::ForwardedRegister;
use crate::edge::returned::is_stale;
use crate::message::{Message, Name};

/// What an answer says of the proof in a REGISTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProofWord {
    /// Nothing, or that it is merely old.
    Nothing,
    /// It was wrong, or was for another address.
    InDoubt,
    /// It was wrong.
    Failed,
}

/// What a REGISTER was answered, and by whom.
#[derive(Clone, Copy)]
pub(super) enum Answered<'a> {
    /// By its SIP server.
    ByServer(u16, &'a Message),
    /// By nobody: the SIP server was silent.
    Silent,
    /// By the relay itself, with this status.
    ByRelay(u16),
}

impl Endpoint {
    /// The outcome of a REGISTER, to be asked before it changes what is known. `None`: the relay was asked for its push services alone.
    pub(super) fn register_outcome(
        &self,
        register: &ForwardedRegister,
        answered: Answered<'_>,
    ) -> Option<RegisterOutcome> {
        let known = register.registration().is_some_and(|(instance, _)| self.push_bindings.knows(instance));
        Some(match answered {
            Answered::ByRelay(200..300) => return None,
            Answered::ByServer(200..300, response) => {
                let grants = register.registration().is_some() && !register.intent.granted(response).is_zero();
                match (grants, known) {
                    (false, _) => RegisterOutcome::Unregistered,
                    (true, true) => RegisterOutcome::Refreshed,
                    (true, false) => RegisterOutcome::Registered,
                }
            }
            Answered::ByServer(status @ (401 | 407), response)
                if self.judge_proof(register, status, response) != ProofWord::Failed =>
            {
                RegisterOutcome::Challenged
            }
            Answered::ByServer(401 | 407, _) if known => RegisterOutcome::Unproven,
            _ if !known => RegisterOutcome::FirstFailed,
            Answered::ByServer(403 | 404 | 410 | 604, _) => RegisterOutcome::Refused,
            Answered::ByServer(..) => RegisterOutcome::Failed,
            Answered::Silent => RegisterOutcome::TimedOut,
            Answered::ByRelay(503) => RegisterOutcome::Limited,
            Answered::ByRelay(504) => RegisterOutcome::Unreachable,
            Answered::ByRelay(_) => RegisterOutcome::Refused,
        })
    }

    /// Whether a REGISTER was challenged with a proof that may be for another address.
    pub(super) fn is_in_doubt(&self, register: &ForwardedRegister, answered: Answered<'_>) -> bool {
        match answered {
            Answered::ByServer(status, response) => self.judge_proof(register, status, response) == ProofWord::InDoubt,
            Answered::Silent | Answered::ByRelay(_) => false,
        }
    }
}

/// Whether a response says that the proof in its request was wrong, and not merely old, nor another one than is asked for: a proxy asks by 407, and the
/// registrar behind it by 401 (RFC 3261 §22.3). Some servers answer 404 or 604 to anybody whom they do not let in. The phone of an account that is gone gets
/// the same, and counts as one that guesses: that delays the account, and after many more its source.
pub(super) fn is_failed_proof(register: &Message, status: u16, response: &Message) -> bool {
    match status {
        401 => register.has(Name::Authorization) && !is_stale(response),
        407 => register.has(Name::ProxyAuthorization) && !is_stale(response),
        403 | 404 | 604 => register.has(Name::Authorization) || register.has(Name::ProxyAuthorization),
        _ => false,
    }
}
