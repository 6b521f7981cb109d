//! A push to a service that speaks HTTP/1.1 alone, as many do behind a private web server: one connection for each push.
//!
//! Invariant: as with HTTP/2, [`Failure::Unsent`] means that the service certainly has not taken the push. The connection is dialled, verified and limited by
//! the same code; only the protocol in it is older.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::push::connection::allowance::Allowance;
use crate::push::connection::answer::Answer;
use crate::push::connection::answer_timeout::Patience;
use crate::push::connection::departure::Body;
use crate::push::connection::endpoint::Endpoint;
use crate::push::connection::http2::{Channel, Failure, Request};
use crate::push::connection::withdrawal::Withdrawal;
use crate::push::health::reasons::NOT_ALLOWED;

/// How long the connection may take.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// A connection, driven until it is dropped.
struct Opened {
    sender: SendRequest<Full<Body>>,
    authority: String,
    withdrawal: Withdrawal,
    _driven: JoinSet<()>,
}

/// Posts it, and waits for the whole answer.
pub(super) async fn post(channel: &Channel, request: &Request, patience: Patience<'_>) -> Result<Answer, Failure> {
    let unsent = Failure::Unsent { after: None };
    let Patience { times, departure, .. } = patience;
    let opening = timeout_at(times.leaves_until.min(Instant::now() + DIAL_WITHIN), channel.have_made(opened)).await;
    let Ok(Some(opened)) = opening else { return Err(unsent) };
    let mut opened = opened?;
    let mut head = hyper::Request::builder().method(hyper::Method::POST).uri(&request.path);
    head = head.header(HOST, &opened.authority);
    // Until it is answered, or its answer is waited for no more, it counts as one that may arrive.
    let (body, _passage) = departure.begin(patience.body_of(request)).ok_or(unsent)?;
    let mut head = head.body(Full::new(body)).map_err(|_| unsent)?;
    head.headers_mut().extend(request.headers.clone());
    let until = patience.times.answer_until();
    // Until it is answered: bytes that have not arrived when nobody waits for the push any more never do.
    opened.withdrawal.ask(true);
    let exchange = async {
        let response = opened.sender.send_request(head).await.ok()?;
        opened.withdrawal.ask(false);
        Some(Answer::read(response, until).await)
    };
    let answer = timeout_at(until, exchange).await;
    answer.ok().flatten().ok_or(Failure::Unconfirmed)
}

async fn opened(endpoint: Arc<Endpoint>) -> Result<Opened, Failure> {
    let unsent = Failure::Unsent { after: None };
    let allowance = Arc::new(Allowance::of_one_answer());
    let dialler = endpoint.dialler();
    // The caller may have given up.
    let (stream, withdrawal) = match timeout(DIAL_WITHIN, dialler.dial_http1(Some(&allowance))).await {
        Ok(Ok(dialled)) => dialled,
        Ok(Err(error)) if error.is_forbidden() => return Err(Failure::ShutOut { reason: NOT_ALLOWED }),
        Ok(Err(error)) if error.is_for_want_of_leave() => return Err(Failure::NoPlace { after: None }),
        Ok(Err(_)) | Err(_) => return Err(unsent),
    };
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| unsent)?;
    let mut driven = JoinSet::new();
    // Its end is told by what was sent.
    driven.spawn(async { drop(connection.await) });
    Ok(Opened { sender, authority: dialler.authority(), withdrawal, _driven: driven })
}
