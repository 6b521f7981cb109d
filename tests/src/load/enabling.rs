//! The app side: enabling push for every account through the HTTPS API.
//!
//! The relay closes a connection that carried a credential, so each enabling is a connection of its own with a full TLS handshake. The cost of that
//! without any registration is measured beside it, with enablings that the relay refuses for their SIP domain after it has read and checked
//! everything.
//!
//! Invariant: so many enablings are under way at once as was asked for; the first that fails ends the phase.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::accounts::{self, Accounts, DOMAIN, Enabled, FOREIGN_DOMAIN};
use super::devices::{connect, full_handshakes};
use super::measure::{Samples, Spread};
use super::plan::{PushSide, Upstream};
use crate::authority::Authority;

/// One enabling at most; the relay itself answers 202 before this when the registrar is slow.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Where the device of an account is pushed to.
pub type Targets = Arc<dyn Fn(u32) -> Value + Send + Sync>;

/// Of a side: by the tokens that follow from the account's number.
pub fn targets(push: PushSide) -> Targets {
    Arc::new(move |number| {
        if push.is_fcm(number) {
            json!({"provider": "fcm", "token": accounts::fcm_token(number)})
        } else {
            json!({"provider": "apns", "token": accounts::apns_token(number), "environment": "production"})
        }
    })
}

/// The app.
pub struct App {
    /// Where the API is.
    pub api: SocketAddr,
    /// The app's key.
    pub key: String,
    /// Where the SIP server is.
    pub registrar: SocketAddr,
    /// How the relay speaks to it.
    pub upstream: Upstream,
    /// Where the device of an account is pushed to, as `device.call_push` names it.
    pub targets: Targets,
    tls: TlsConnector,
    accounts: Accounts,
}

/// The results of enabling.
#[derive(Debug, Default)]
pub struct Done {
    /// Answered 202: stored, to be registered.
    pub stored: u32,
    /// From the connection's beginning to the whole answer.
    pub took: Spread,
}

impl App {
    /// An app that trusts `authority`.
    pub fn new(
        accounts: Accounts,
        authority: &Authority,
        api: SocketAddr,
        key: &str,
        registrar: SocketAddr,
        upstream: Upstream,
        targets: Targets,
    ) -> Self {
        let tls = TlsConnector::from(full_handshakes(authority, &[b"http/1.1"]));
        Self { api, key: key.to_owned(), registrar, upstream, targets, tls, accounts }
    }

    /// The same app at another relay.
    pub fn at(&self, api: SocketAddr, authority: &Authority) -> Self {
        Self::new(self.accounts.clone(), authority, api, &self.key, self.registrar, self.upstream, self.targets.clone())
    }

    /// The accounts.
    pub fn accounts(&self) -> Accounts {
        self.accounts.clone()
    }

    /// Enables the accounts of a range.
    ///
    /// # Errors
    /// The first enabling that was answered neither 201 nor 202, or not at all.
    pub async fn enable(self: &Arc<Self>, range: std::ops::Range<u32>, concurrency: u32) -> io::Result<Done> {
        let counts = self
            .in_parallel(range, concurrency, |app, number| async move {
                let (status, answer) = app.post(number, DOMAIN).await?;
                match status {
                    201 | 202 => app.keep(number, &answer)?,
                    _ => return Err(io::Error::other(format!("enabling was answered {status}: {answer}"))),
                }
                Ok(status)
            })
            .await?;
        let stored = counts.0.iter().filter(|status| **status == 202).count() as u32;
        Ok(Done { stored, took: counts.1 })
    }

    /// Asks for so many enablings that the relay refuses for their domain.
    ///
    /// # Errors
    /// The first that was not answered 403.
    pub async fn be_refused(self: &Arc<Self>, count: u32, concurrency: u32) -> io::Result<Spread> {
        let refused = self
            .in_parallel(0..count, concurrency, |app, number| async move {
                match app.post(number, FOREIGN_DOMAIN).await? {
                    (403, _) => Ok(403),
                    (status, answer) => {
                        Err(io::Error::other(format!("a foreign domain was answered {status}: {answer}")))
                    }
                }
            })
            .await?;
        Ok(refused.1)
    }

    async fn in_parallel<F>(
        self: &Arc<Self>,
        range: std::ops::Range<u32>,
        concurrency: u32,
        one: impl Fn(Arc<Self>, u32) -> F + Copy + Send + 'static,
    ) -> io::Result<(Vec<u16>, Spread)>
    where
        F: Future<Output = io::Result<u16>> + Send + 'static,
    {
        let next = Arc::new(AtomicU32::new(range.start));
        let took = Arc::new(Samples::default());
        let mut workers = JoinSet::new();
        for _ in 0..concurrency {
            let (app, next, took) = (self.clone(), next.clone(), took.clone());
            workers.spawn(async move {
                let mut statuses = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= range.end {
                        return Ok::<_, io::Error>(statuses);
                    }
                    let begun = Instant::now();
                    let answered = tokio::time::timeout(ANSWER_WITHIN, one(app.clone(), number));
                    statuses.push(answered.await.map_err(|_| io::Error::other("no answer came in time"))??);
                    took.add(begun.elapsed().as_nanos() as u64);
                }
            });
        }
        let mut statuses = Vec::new();
        while let Some(worker) = workers.join_next().await {
            statuses.extend(worker.map_err(io::Error::other)??);
        }
        Ok((statuses, took.take()))
    }

    fn keep(&self, number: u32, answer: &str) -> io::Result<()> {
        let answer: Value = serde_json::from_str(answer)?;
        let (Some(id), Some(secret)) = (answer["instance"].as_str(), answer["secret"].as_str()) else {
            return Err(io::Error::other("an answer without instance or secret"));
        };
        let _ = self.accounts[number as usize].enabled.set(Enabled { id: id.into(), secret: secret.into() });
        Ok(())
    }

    async fn post(&self, number: u32, domain: &str) -> io::Result<(u16, String)> {
        let body = self.body(number, domain).to_string();
        let (api, key) = (self.api, &self.key);
        let request = format!(
            "POST /v1/instances HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = connect(number, self.api, &self.tls).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::with_capacity(2_048);
        while !is_whole(&answer) && answer.len() < MAX_ANSWER {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no HTTP answer: {answer:?}")))?;
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        // The relay closes; waiting for it leaves the port in TIME_WAIT on its side.
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 16])).await;
        Ok((status, body))
    }

    fn body(&self, number: u32, domain: &str) -> Value {
        let transport = self.upstream.param();
        let user = accounts::user(number);
        json!({
            "account": {
                "aor": format!("sip:{user}@{domain}"),
                "auth_username": user,
                "password": accounts::password(number),
                "registrar": format!("sip:{};transport={transport}", self.registrar),
            },
            "device": {"call_push": (self.targets)(number), "label": "Load test phone"},
            "wake_for": ["call"],
        })
    }
}

/// Whether an HTTP/1.1 answer with a Content-Length is complete.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}
