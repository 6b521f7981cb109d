//! A push to a service that speaks HTTP/1.1 alone, as many do that stand behind somebody's own web server: one connection for
//! each push.
//!
//! Invariant: as with HTTP/2, [`Failure::Unsent`] means that the service certainly has not taken the push. The connection is
//! dialled and verified as the others are; only what is spoken in it is older.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use crate::push::connection::{Answer, Failure, Patience, Request};
use crate::push::dial::Dialler;
use crate::push::reasons::NOT_ALLOWED;

/// How long the connection may take.
const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// The largest body of an answer, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Posts it, and waits for the whole answer.
pub(super) async fn post(dialler: &Dialler, request: &Request, patience: Patience<'_>) -> Result<Answer, Failure> {
    let unsent = Failure::Unsent { after: None };
    let Patience { until, departure, .. } = patience;
    let dialled = timeout_at(until.min(Instant::now() + DIAL_WITHIN), dialler.dial_http1()).await;
    let stream = match dialled {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.is_forbidden() => return Err(Failure::ShutOut { reason: NOT_ALLOWED }),
        Ok(Err(_)) | Err(_) => return Err(unsent),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| unsent)?;
    let connection = tokio::spawn(connection);
    let mut head = hyper::Request::builder().method(hyper::Method::POST).uri(&request.path);
    head = head.header(HOST, dialler.authority());
    let mut head = head.body(Full::new(request.body.clone())).map_err(|_| unsent)?;
    head.headers_mut().extend(request.headers.clone());
    departure.note();
    let exchange = async {
        let (head, body) = sender.send_request(head).await.ok()?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.ok().map(|body| body.to_bytes());
        Some(Answer { status: head.status, headers: head.headers, body })
    };
    let answer = timeout_at(until, exchange).await;
    connection.abort();
    answer.ok().flatten().ok_or(Failure::Unconfirmed)
}
