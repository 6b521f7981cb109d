//! Certificates by themselves: ordered from a CA that speaks ACME (RFC 8555), and renewed at two thirds of their life.
//!
//! ```text
//! account ─ order ─ challenge of each name (TLS-ALPN-01 or HTTP-01) ─ CSR ─ chain ─ files ─ in use within the same second
//! ```
//!
//! Invariant: what is in the state folder is its user's alone, and is replaced as a whole. A failure keeps what is in use, is told
//! (log, `/readyz`, status page, metric) and tried again, later each time and never at the same moment as other nodes. Until the first
//! certificate is there, the relay shows one that it has signed itself.

mod files;
mod http;
mod order;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use instant_acme::ChallengeType;
use tokio::time::sleep;

use crate::clock;
use crate::config::{Acme as Settings, AcmeChallenge};
use crate::metrics::Metrics;
use crate::metrics::labels::CertificateOrder;
use crate::net::tls::{ServerTls, TlsError};
use crate::random;

pub use files::Files;

/// After an order the next one waits this many times as long as after a first failure, whatever the certificate says: a clock that is
/// wrong orders no certificate each second.
const CALM: u32 = 10;
/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(12 * 3_600);
/// An order that takes longer has failed.
const ORDER_WITHIN: Duration = Duration::from_secs(180);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// What the CA, or the way to it, says.
    #[error("{0}")]
    Ca(#[from] instant_acme::Error),
    /// The CA offers no challenge of the kind that is configured.
    #[error("the CA offers no {0} for {1}")]
    NoChallenge(&'static str, String),
    /// The CA has looked, and does not believe.
    #[error("the CA does not take it that {0} is this relay's: {1}")]
    NotProved(String, String),
    /// It took too long.
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

/// What answers HTTP-01, by token.
pub type Tokens = Arc<RwLock<HashMap<String, String>>>;

/// Renews the certificate of one relay.
pub struct Acme {
    settings: Settings,
    files: Files,
    tls: Arc<ServerTls>,
    tokens: Tokens,
    metrics: Metrics,
    first_wait: Duration,
}

impl Acme {
    /// For the relay with this certificate; `first_wait` is that after the first failure.
    pub fn new(settings: Settings, tls: Arc<ServerTls>, metrics: Metrics, first_wait: Duration) -> Self {
        let files = Files::new(&settings.state);
        Self { settings, files, tls, tokens: Tokens::default(), metrics, first_wait }
    }

    /// What answers HTTP-01 for it.
    pub fn answers(&self) -> Router {
        let token = async |State(tokens): State<Tokens>, Path(token): Path<String>| {
            let answer = tokens.read().ok().and_then(|tokens| tokens.get(&token).cloned());
            answer.ok_or(StatusCode::NOT_FOUND)
        };
        Router::new().route("/.well-known/acme-challenge/{token}", get(token)).with_state(self.tokens.clone())
    }

    /// Keeps the certificate for ever; `told` hears what an operator should know, and nothing once all is well.
    pub async fn keep(self, told: impl Fn(Option<String>)) {
        let mut failures = 0u32;
        loop {
            let wait = self.until_due();
            if !wait.is_zero() {
                // The clock is looked at again soon: a machine may sleep, and the files may change.
                sleep(wait.min(self.first_wait)).await;
                continue;
            }
            match tokio::time::timeout(ORDER_WITHIN, self.renew()).await.unwrap_or(Err(AcmeError::Timeout)) {
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
                    sleep(self.first_wait * CALM).await;
                }
                Err(error) => {
                    self.metrics.certificate_order(CertificateOrder::Failed);
                    let pause = self.pause(failures);
                    failures = failures.saturating_add(1);
                    let days = self.tls.expiry().saturating_sub(clock::unix_now()) / 86_400;
                    let again = pause.as_secs();
                    tracing::warn!(event = "certificate-not-issued", %error, failures, again_in_s = again, days_left = days, "no certificate was issued; the old one stays in use");
                    told(Some(format!(
                        "acme: no certificate was issued ({failures} times): {error}; the one in use ends in {days} days, tried again in {again} s"
                    )));
                    sleep(pause).await;
                }
            }
        }
    }

    /// Until two thirds of the life of the certificate in use are over; a few percent less, so that nodes do not all ask at once.
    fn until_due(&self) -> Duration {
        let (begin, end) = self.tls.validity();
        let life = end.saturating_sub(begin);
        let due = begin + life * 2 / 3 - spread(life / 50);
        Duration::from_secs(due.saturating_sub(clock::unix_now()))
    }

    /// Longer each time, and a quarter more or less.
    fn pause(&self, failures: u32) -> Duration {
        let pause = self.first_wait.saturating_mul(1 << failures.min(16)).min(LONGEST);
        pause.mul_f64(0.75 + f64::from(u16::from_ne_bytes(random::bytes())) / f64::from(u16::MAX) / 2.0)
    }

    async fn renew(&self) -> Result<(), AcmeError> {
        let account = self.files.account(&self.settings).await?;
        let names = &self.settings.names;
        let issued = order::order(&account, names, self).await;
        for name in names {
            self.tls.challenges().forget(name);
        }
        if let Ok(mut tokens) = self.tokens.write() {
            tokens.clear();
        }
        if let Err(AcmeError::Ca(instant_acme::Error::Api(problem))) = &issued
            && problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
        {
            self.files.forget_account()?;
        }
        let (key, chain) = issued?;
        self.files.keep(&key, &chain)?;
        self.tls.reload()?;
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

/// A random number below `most`, 0 when that is 0.
fn spread(most: u64) -> u64 {
    u64::from_ne_bytes(random::bytes()).checked_rem(most).unwrap_or(0)
}
