//! The first registration of a lent account, which shows whether its SIP server accepts the credentials.
//!
//! Invariant: a password that was tried is counted, however late its SIP server answers.

use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::agent::request::{FirstRegistration, NewInstance, Request};
use crate::agent::{Asked, Unanswerable};
use crate::clock;
use crate::limits::guesses::Permit;
use crate::service::Inner;
use crate::service::apps::{EnableError, Refusal};
use crate::service::keyed_mutex::KeyedGuard;
use crate::service::views::{Registration, RegistrationState};
use crate::vault::Lookup;
use crate::vault::record::Account;

/// How long an enabling waits for the first registration; then it is answered 202. Clients wait for an answer for 10 s and more.
const FIRST_REGISTRATION: Duration = Duration::from_secs(6);
/// How long it waits where the same device is enabled again meanwhile.
const BEFORE_THE_NEXT: Duration = Duration::from_secs(1);
/// How long after that a password that was not judged yet counts as one under way.
const LATE_VERDICT: Duration = Duration::from_secs(120);

/// The outcome of a first registration.
type Outcome = oneshot::Receiver<FirstRegistration>;

impl Inner {
    /// Registers once, and tells what became of the password: now, or when its SIP server has answered.
    pub(super) async fn prove(
        self: &Arc<Self>,
        new: NewInstance,
        turn: &KeyedGuard<'_, Lookup>,
        permit: Permit,
        is_over: oneshot::Receiver<Infallible>,
    ) -> Result<(Registration, Vec<Asked>), EnableError> {
        let id = new.id;
        let (registration, later) = self.first_registration(new, turn).await;
        match later {
            None => judge(permit, &registration),
            Some(later) => drop(tokio::spawn(self.clone().judge_later(id, permit, later, is_over))),
        }
        registration
    }

    /// Registers once. A refusal is an error, and then the shard has forgotten the instance already. A later answer of the SIP server arrives on the
    /// channel returned beside it.
    async fn first_registration(
        &self,
        new: NewInstance,
        turn: &KeyedGuard<'_, Lookup>,
    ) -> (Result<(Registration, Vec<Asked>), EnableError>, Option<Outcome>) {
        let (first, mut outcome) = oneshot::channel();
        let id = new.id;
        let is_escaped = self.dependencies.vault.open_lent(id, &new.sealed, |record| is_escaped(&record.account));
        self.dependencies.agent.tell(id, Request::Bind { new: Box::new(new), first }).await;
        let pending =
            |state, status| Ok((Registration { state, status, expires_in_s: None, failing_since: None }, Vec::new()));
        let registration = match within_its_turn(turn, self.leaves(), &mut outcome).await {
            Some(Ok(FirstRegistration::Registered { expires, asked })) => {
                let registration = Registration {
                    state: RegistrationState::Registered,
                    status: Some(200),
                    expires_in_s: u32::try_from(expires.as_secs()).ok(),
                    failing_since: None,
                };
                Ok((registration, asked))
            }
            Some(Ok(FirstRegistration::Refused { status, unanswerable })) => Err(EnableError::UpstreamRefused {
                status,
                reason: refusal(status, unanswerable, is_escaped.unwrap_or(false)),
            }),
            Some(Ok(FirstRegistration::Failed { status })) => pending(RegistrationState::Retrying, status),
            // Its shard has forgotten it: it was wiped meanwhile, or this process ends.
            Some(Err(_)) => Err(match self.reason_of_end(id) {
                None => EnableError::Draining,
                reason => EnableError::Ended { reason },
            }),
            None => return (pending(RegistrationState::Registering, None), Some(outcome)),
        };
        (registration, None)
    }

    /// Tells what became of a password that its SIP server judges when nobody waits any more: however long it waits for its turn, it
    /// counts. `is_over` ends with the enabling, which alone stores what is new.
    async fn judge_later(
        self: Arc<Self>,
        id: InstanceId,
        permit: Permit,
        outcome: Outcome,
        is_over: oneshot::Receiver<Infallible>,
    ) {
        match timeout(LATE_VERDICT, outcome).await {
            Ok(Ok(FirstRegistration::Registered { asked, .. })) => {
                permit.accepted(clock::now());
                // An error is its end.
                let _ = is_over.await;
                self.give_up_password(id, &asked).await;
            }
            Ok(Ok(FirstRegistration::Refused { status, unanswerable: None })) if is_wrong_password(status) => {
                permit.refused(clock::now());
            }
            _ => drop(permit),
        }
    }
}

/// The outcome of a first registration, as far as it is known within the time limit of an enabling, and before its node `leaves`: what is stored by then
/// another node takes, and registers.
async fn within_its_turn(
    turn: &KeyedGuard<'_, impl Eq + Hash + Copy>,
    leaves: impl Future<Output = ()>,
    outcome: &mut Outcome,
) -> Option<Result<FirstRegistration, oneshot::error::RecvError>> {
    let is_over = async {
        sleep(BEFORE_THE_NEXT).await;
        let _ = timeout(FIRST_REGISTRATION - BEFORE_THE_NEXT, turn.wanted()).await;
    };
    tokio::select! {
        biased;
        told = outcome => Some(told),
        () = is_over => None,
        () = leaves => None,
    }
}

/// Tells what became of a password that was tried.
fn judge(permit: Permit, registration: &Result<(Registration, Vec<Asked>), EnableError>) {
    let now = clock::now();
    match registration {
        Ok((Registration { state: RegistrationState::Registered, .. }, _)) => permit.accepted(now),
        Err(EnableError::UpstreamRefused { status, reason }) if is_wrong_password(*status) && was_shown(*reason) => {
            permit.refused(now);
        }
        _ => drop(permit),
    }
}

fn is_wrong_password(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 407 | 604)
}

/// Whether a digest was sent. A challenge that cannot be answered gets none, and then its server has judged no password.
fn was_shown(reason: Refusal) -> bool {
    !matches!(reason, Refusal::Realm | Refusal::Algorithm | Refusal::Digest | Refusal::Challenge)
}

fn refusal(status: u16, unanswerable: Option<Unanswerable>, is_escaped: bool) -> Refusal {
    match unanswerable {
        Some(Unanswerable::Realm) => Refusal::Realm,
        Some(Unanswerable::Algorithm) => Refusal::Algorithm,
        Some(Unanswerable::Digest) => Refusal::Digest,
        Some(Unanswerable::Challenge) => Refusal::Challenge,
        None => match Refusal::of_status(status) {
            Refusal::Credentials if is_escaped => Refusal::EscapedCredentials,
            other => other,
        },
    }
}

/// Whether a header writes the account's digest user name otherwise than it is: the hash is of the name (RFC 7616 §3.4.2, `unq`), and some
/// servers take what is written.
fn is_escaped(account: &Account) -> bool {
    account.auth_username.contains(['"', '\\'])
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;
    use crate::limits::guesses::{Attempt, Free, Guesses};
    use crate::service::keyed_mutex::KeyedMutex;

    #[tokio::test(start_paused = true)]
    async fn an_enabling_waits_for_six_seconds_or_for_one_when_the_same_device_is_enabled_again() {
        let turns = KeyedMutex::default();
        let turn = turns.lock_key(1).await;
        let (verdict, mut outcome) = oneshot::channel();
        let began = Instant::now();
        assert!(within_its_turn(&turn, pending(), &mut outcome).await.is_none());
        assert_eq!(began.elapsed(), FIRST_REGISTRATION);
        assert!(within_its_turn(&turn, ready(()), &mut outcome).await.is_none());
        assert_eq!(began.elapsed(), FIRST_REGISTRATION, "a node that leaves waits for no SIP server");
        let next = async {
            sleep(Duration::from_millis(200)).await;
            drop(turns.lock_key(1).await);
        };
        let first = async move {
            let began = Instant::now();
            assert!(within_its_turn(&turn, pending(), &mut outcome).await.is_none());
            assert_eq!(began.elapsed(), BEFORE_THE_NEXT);
            let _ = verdict.send(FirstRegistration::Failed { status: None });
            assert!(within_its_turn(&turn, pending(), &mut outcome).await.is_some(), "what is told is told at once");
        };
        tokio::join!(first, next);
    }

    #[test]
    fn an_ha1_of_a_realm_that_is_not_asked_for_is_no_wrong_password() {
        let (guesses, now) = (Guesses::new(Free { per_account: 5, per_source: 60 }), clock::now());
        let carried = |reason| {
            let enabled = (0..20).filter(|_| {
                let (aor, source) = ("sip:alice@example.com", "192.0.2.1".parse().unwrap());
                let (server, usernames, addresses) = ("example.com", &[], &[]);
                let attempt = Attempt { aor, usernames, server, addresses, source, renews: false };
                let Ok(permit) = guesses.admit(&attempt, now) else { return false };
                judge(permit, &Err(EnableError::UpstreamRefused { status: 401, reason }));
                true
            });
            enabled.count()
        };
        assert_eq!((carried(Refusal::Realm), carried(Refusal::Algorithm), carried(Refusal::Credentials)), (20, 20, 5));
    }

    #[test]
    fn a_user_name_that_a_header_escapes_has_a_word_of_its_own_when_it_is_refused() {
        for (status, is_escaped, reason) in [
            (401, true, Refusal::EscapedCredentials),
            (407, true, Refusal::EscapedCredentials),
            (401, false, Refusal::Credentials),
            (403, true, Refusal::Forbidden),
        ] {
            assert_eq!(refusal(status, None, is_escaped), reason);
        }
    }
}
