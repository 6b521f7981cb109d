//! Certificates by themselves: ordered from a CA that speaks ACME (RFC 8555), and renewed at two thirds of their life, or at once when the
//! configuration has another CA or other names.
//!
//! ```text
//! account ─ order ─ challenge of each name (TLS-ALPN-01 or HTTP-01) ─ CSR ─ chain ─ files ─ in use within the same second
//! ```
//!
//! Invariant: the content of the state folder is its user's alone, and is replaced as a whole. A failure keeps what is in use, is told
//! (log, `/readyz`, status page, metric) and tried again, later each time as far as what is left allows ([`waits`]), at once when an operator
//! has the relay reload, and never at the same moment as other nodes. Until the first certificate is there, the relay shows one that it has
//! signed itself.

mod files;
mod http;
mod order;
mod waits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use instant_acme::ChallengeType;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::clock;
use crate::config::{Acme as Settings, AcmeChallenge};
use crate::metrics::Metrics;
use crate::metrics::labels::CertificateOrder;
use crate::net::tls::{ServerTls, TlsError};
use crate::random;

use waits::Waits;

pub use files::{Files, stands_in};

/// An order that takes longer has failed.
const ORDER_WITHIN: Duration = Duration::from_secs(180);

/// How often an order is gone on with at once when the CA takes no nonce of ours (RFC 8555 §6.5); then it has failed.
const NONCES_REFUSED: u32 = 20;

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// An error of the CA, or of the way to it.
    #[error("{0}")]
    Ca(#[from] instant_acme::Error),
    /// The CA's objection to an account whose orders it refuses.
    #[error("the CA takes no order of this account: {0}")]
    Account(#[source] instant_acme::Error),
    /// The CA offers no challenge of the kind that is configured.
    #[error("the CA offers no {0} for {1}")]
    NoChallenge(&'static str, String),
    /// The CA has looked, and does not believe.
    #[error("the CA does not take it that {0} is this relay's: {1}")]
    NotProved(String, String),
    /// The CA took too long.
    #[error("the order took too long")]
    Timeout,
    /// A key or a request for a certificate cannot be made.
    #[error("{0}")]
    Crypto(#[from] rcgen::Error),
    /// The certificate cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The state folder.
    #[error("the state folder: {0}")]
    Files(#[from] std::io::Error),
}

impl AcmeError {
    /// An order was not taken; `unauthorized` is what a deactivated account is answered (RFC 8555 §7.3.6).
    fn of_new_order(error: instant_acme::Error) -> Self {
        match ca_says(&error) {
            "unauthorized" | "accountDoesNotExist" => Self::Account(error),
            _ => Self::Ca(error),
        }
    }

    /// Whether the order that it befell comes to nothing.
    fn ends_order(&self) -> bool {
        match self {
            Self::Ca(error @ instant_acme::Error::Api(_)) => {
                !["badNonce", "rateLimited", "serverInternal"].contains(&ca_says(error))
            }
            Self::Account(_) | Self::NoChallenge(..) | Self::NotProved(..) | Self::Crypto(_) => true,
            Self::Ca(_) | Self::Timeout | Self::Tls(_) | Self::Files(_) => false,
        }
    }

    /// Whether the CA has answered, and does not want to issue.
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Ca(instant_acme::Error::Api(_)) | Self::Account(_) | Self::NoChallenge(..) | Self::NotProved(..)
        )
    }

    fn is_of_nonce(&self) -> bool {
        matches!(self, Self::Ca(error) if ca_says(error) == "badNonce")
    }
}

/// The CA's word for what is wrong (RFC 8555 §6.7), without what is before it in each; empty when it is none of the CA's.
fn ca_says(error: &instant_acme::Error) -> &str {
    match error {
        instant_acme::Error::Api(problem) => {
            problem.r#type.as_deref().and_then(|it| it.strip_prefix("urn:ietf:params:acme:error:")).unwrap_or_default()
        }
        _ => "",
    }
}

/// The answers to HTTP-01, by token.
pub type Tokens = Arc<RwLock<HashMap<String, String>>>;

/// Renews the certificate of one relay.
pub struct Acme {
    settings: Settings,
    files: Files,
    tls: Arc<ServerTls>,
    tokens: Tokens,
    metrics: Metrics,
    first_wait: Duration,
    /// The CA took no order of the account, and none has been issued by the next one yet.
    account_replaced: AtomicBool,
}

impl Acme {
    /// For the relay with this certificate; `first_wait` is that after the first failure.
    pub fn new(settings: Settings, tls: Arc<ServerTls>, metrics: Metrics, first_wait: Duration) -> Self {
        let files = Files::new(&settings.state);
        let (tokens, account_replaced) = (Tokens::default(), AtomicBool::new(false));
        Self { settings, files, tls, tokens, metrics, first_wait, account_replaced }
    }

    /// The routes that answer HTTP-01.
    pub fn answers(&self) -> Router {
        let token = async |State(tokens): State<Tokens>, Path(token): Path<String>| {
            let answer = tokens.read().ok().and_then(|tokens| tokens.get(&token).cloned());
            answer.ok_or(StatusCode::NOT_FOUND)
        };
        Router::new().route("/.well-known/acme-challenge/{token}", get(token)).with_state(self.tokens.clone())
    }

    /// Keeps the certificate for ever; `told` hears what an operator should know, and nothing once all is well. `asked`: an operator does not want to
    /// wait for the end of a pause.
    pub async fn keep(self, asked: Arc<Notify>, told: impl Fn(Option<String>)) {
        let mut failures = 0u32;
        loop {
            let wait = self.until_due();
            if !wait.is_zero() {
                // Another node, or a hand, has renewed it.
                if std::mem::take(&mut failures) > 0 {
                    told(None);
                }
                // The clock is looked at again soon: a machine may sleep, and the files may change.
                sleep(wait.min(self.first_wait)).await;
                continue;
            }
            // A request of the operator during the attempt may come too late for it.
            let asked = asked.notified();
            match timeout(ORDER_WITHIN, self.renew()).await.unwrap_or(Err(AcmeError::Timeout)) {
                Ok(()) => {
                    failures = 0;
                    self.metrics.certificate_order(CertificateOrder::Issued);
                    tracing::info!(
                        event = "certificate-issued",
                        names = self.settings.names.join(" "),
                        expires_at = self.tls.expiry(),
                        "a certificate was issued"
                    );
                    told(None);
                    sleep(self.waits().after_issue()).await;
                }
                Err(error) => {
                    self.forget_challenges();
                    self.metrics.certificate_order(CertificateOrder::Failed);
                    let (waits, ended_at) = (self.waits(), Instant::now());
                    let pause = waits.after_failure(failures, error.is_refusal(), about_all());
                    failures = failures.saturating_add(1);
                    let days = waits.left.as_secs() / clock::DAY_S;
                    let again = pause.as_secs();
                    let until_then = if waits.life.is_zero() {
                        "there is none yet, and nobody can connect".to_owned()
                    } else {
                        format!("the one in use ends in {days} days")
                    };
                    tracing::warn!(event = "certificate-not-issued", %error, failures, again_in_s = again, days_left = days, "no certificate was issued; what is in use stays in use");
                    told(Some(format!(
                        "acme: no certificate was issued ({failures} times): {error}; {until_then}, tried again in {again} s"
                    )));
                    if timeout(pause, asked).await.is_ok() {
                        sleep_until(ended_at + waits.before_asked()).await;
                    }
                }
            }
        }
    }

    /// Judged by the certificate in use.
    fn waits(&self) -> Waits {
        let is_stand_in = self.tls.chain().first().is_some_and(stands_in);
        let (begin, end) = if is_stand_in { (0, 0) } else { self.tls.validity() };
        let [life, left] = [begin, clock::advertised_now()].map(|from| Duration::from_secs(end.saturating_sub(from)));
        Waits { first: self.first_wait, life, left }
    }

    /// Until two thirds of the life of the certificate in use are over; a few percent less, so that nodes do not all ask at once.
    /// One from another CA, or for other names, is due at once.
    fn until_due(&self) -> Duration {
        if !self.files.is_of(&self.settings) {
            return Duration::ZERO;
        }
        let (begin, end) = self.tls.validity();
        let life = end.saturating_sub(begin);
        let due = begin + life * 2 / 3 - spread(life / 50);
        Duration::from_secs(due.saturating_sub(clock::advertised_now()))
    }

    async fn renew(&self) -> Result<(), AcmeError> {
        let mut refused = 0;
        loop {
            match self.try_to_renew().await {
                Err(error) if error.is_of_nonce() && refused < NONCES_REFUSED => refused += 1,
                outcome => return outcome,
            }
        }
    }

    /// Forgets the answers for a CA that validates, once it does so no more, also when an order took too long.
    fn forget_challenges(&self) {
        for name in &self.settings.names {
            self.tls.challenges().forget(name);
        }
        if let Ok(mut tokens) = self.tokens.write() {
            tokens.clear();
        }
    }

    async fn try_to_renew(&self) -> Result<(), AcmeError> {
        let account = self.files.account(&self.settings).await?;
        let names = &self.settings.names;
        let issued = order::order(&account, names, self, &self.files).await;
        self.forget_challenges();
        // A CA that takes no order of the next account either does not see one more each time.
        if let Err(AcmeError::Account(error)) = &issued
            && (!self.account_replaced.swap(true, Ordering::Relaxed) || ca_says(error) == "accountDoesNotExist")
        {
            self.files.forget_account()?;
        }
        let (key, chain) = issued?;
        self.account_replaced.store(false, Ordering::Relaxed);
        self.files.keep(&key, &chain)?;
        self.files.keep_issued(&self.settings)?;
        self.tls.reload()?;
        // One that is not taken (a clock that is wrong, a name that it lacks) is got again, for CAs count what they issue.
        self.files.forget_order()?;
        Ok(())
    }
}

impl order::Prover for Acme {
    fn kind(&self) -> (ChallengeType, &'static str) {
        match self.settings.challenge {
            AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            AcmeChallenge::Http01 => (ChallengeType::Http01, "http-01"),
        }
    }

    fn prove(&self, name: &str, token: &str, authorization: &instant_acme::KeyAuthorization) -> Result<(), AcmeError> {
        match self.settings.challenge {
            AcmeChallenge::TlsAlpn01 => self.tls.challenges().answer(name, authorization.digest().as_ref())?,
            AcmeChallenge::Http01 => {
                if let Ok(mut tokens) = self.tokens.write() {
                    tokens.insert(token.to_owned(), authorization.as_str().to_owned());
                }
            }
        }
        Ok(())
    }
}

/// One, and a quarter more or less.
fn about_all() -> f64 {
    0.75 + f64::from(u16::from_ne_bytes(random::bytes())) / f64::from(u16::MAX) / 2.0
}

/// A random number below `most`, 0 when that is 0.
fn spread(most: u64) -> u64 {
    u64::from_ne_bytes(random::bytes()).checked_rem(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::vault::hex;

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_an_operator_asks_and_an_earlier_question_shortens_none() {
        const FIRST: Duration = Duration::from_secs(8 * 3_600);
        let state = std::env::temp_dir().join(format!("sipwake-asked-{}", hex(&random::bytes::<8>())));
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let settings = Settings {
            directory_url: format!("https://{closed}/dir").into(),
            contact: Vec::new(),
            state: state.clone(),
            challenge: AcmeChallenge::TlsAlpn01,
            listen: None,
            names: vec!["relay.example.net".to_owned()],
            ca_file: None,
        };
        let files = Files::new(&state);
        files.prepare(&settings.names).unwrap();
        let (certificate, key) = files.pair();
        let tls = ServerTls::load(&certificate, &key).unwrap();
        let (asked, (say, mut said)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
        asked.notify_waiters();
        let acme = Acme::new(settings, tls, Metrics::new(), FIRST);
        let keeping = tokio::spawn(acme.keep(asked.clone(), move |problem| drop(say.send((Instant::now(), problem)))));
        let mut failed_at = async || {
            let (at, problem) = said.recv().await.unwrap();
            assert!(problem.is_some_and(|problem| problem.contains("no certificate was issued")));
            at
        };
        let (first, second) = (failed_at().await, failed_at().await);
        assert!(second - first > FIRST / 2, "nobody has asked");
        tokio::task::yield_now().await;
        asked.notify_waiters();
        let third = failed_at().await;
        assert!(third - second < FIRST / 4, "{:?}", third - second);
        keeping.abort();
        std::fs::remove_dir_all(&state).unwrap();
    }

    /// An error of a CA.
    fn problem(word: &str) -> instant_acme::Error {
        let text = format!(r#"{{"type":"urn:ietf:params:acme:error:{word}","detail":"d","status":400}}"#);
        instant_acme::Error::Api(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn what_says_nothing_of_an_order_leaves_it_and_an_account_that_is_refused_is_told_apart() {
        for word in ["badNonce", "rateLimited", "serverInternal"] {
            assert!(!AcmeError::Ca(problem(word)).ends_order(), "{word}");
        }
        assert!(!AcmeError::Timeout.ends_order() && AcmeError::Ca(problem("badNonce")).is_of_nonce());
        for word in ["badCSR", "malformed", "unauthorized", "accountDoesNotExist", "something-new"] {
            assert!(AcmeError::Ca(problem(word)).ends_order(), "{word}");
        }
        for (word, is_of_account) in
            [("unauthorized", true), ("accountDoesNotExist", true), ("rejectedIdentifier", false), ("badNonce", false)]
        {
            let error = AcmeError::of_new_order(problem(word));
            assert_eq!(matches!(error, AcmeError::Account(_)), is_of_account, "{word}");
        }
    }
}
