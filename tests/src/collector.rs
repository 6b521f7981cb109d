//! A collector of OpenTelemetry that takes traces by OTLP over HTTP, with TLS or without.
//!
//! Invariant: what it was shown and what it took is kept in the order of arrival; it listens on loopback alone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;

/// One request.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Its line and headers, in lower case.
    pub head: String,
    /// Its body.
    pub body: Value,
}

/// The collector; it ends with the runtime.
#[derive(Clone)]
pub struct Collector {
    address: SocketAddr,
    is_tls: bool,
    state: Arc<(Mutex<Vec<Posted>>, AtomicU16)>,
}

impl Collector {
    /// Starts one; with an `authority` it speaks TLS.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(authority: Option<&Authority>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let it =
            Self { address, is_tls: authority.is_some(), state: Arc::new((Mutex::default(), AtomicU16::new(200))) };
        let acceptor =
            authority.map(|authority| TlsAcceptor::from(authority.server_config(&["localhost", "127.0.0.1"], &[])));
        let serving = it.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (it, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => it.take(stream).await,
                            Err(_) => None,
                        },
                        None => it.take(stream).await,
                    }
                });
            }
        });
        it
    }

    /// As the setting `otlp.endpoint` names it.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// Answers with this status from now on.
    pub fn answer_with(&self, status: u16) {
        self.state.1.store(status, Ordering::Relaxed);
    }

    /// The requests that it was sent, including those that it refused.
    pub fn posted(&self) -> Vec<Posted> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Posted>> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one request, and answers it.
    async fn take(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut bytes = Vec::new();
        let (head, from) = loop {
            if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
                break (String::from_utf8_lossy(&bytes[..end]).to_lowercase(), end + 4);
            }
            (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
        };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>().ok()?;
        while bytes.len() < from + length {
            (stream.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
        }
        let body = serde_json::from_slice(&bytes[from..from + length]).unwrap_or_default();
        self.lock().push(Posted { head, body });
        let status = self.state.1.load(Ordering::Relaxed);
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}");
        stream.write_all(answer.as_bytes()).await.ok()?;
        stream.shutdown().await.ok()
    }
}
