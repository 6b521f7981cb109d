//! The body of a request, and what its handler leaves unread of it.
//!
//! An answer before the end of its request is followed by RST_STREAM over HTTP/2 (RFC 9113 §8.1), and by the end of the connection over
//! HTTP/1.1: curl, for one, then often loses the answer. So the rest is read before the answer goes out, and nothing of it is kept.
//!
//! Invariant: a body is complete within [`BODY_TIMEOUT`], or fails; of a rest at most [`MAX_REST`] bytes are read, for [`REST_TIMEOUT`] at most,
//! and none where the client waits to be asked for it (`Expect`, RFC 9110 §10.1.1).

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::EXPECT;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use crate::lock::Mutex;

/// A request's body that takes longer fails for its handler.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// The part of a body that is read although its handler does not want it, in bytes; a longer one is answered before its end.
pub const MAX_REST: usize = 1024 * 1024;
/// How long that may take; a slower one is answered before its end.
pub const REST_TIMEOUT: Duration = Duration::from_secs(3);

/// The rest of a body that its handler leaves before its end.
#[derive(Debug, Default)]
pub(super) struct Rest {
    left: Arc<Mutex<Option<Incoming>>>,
    is_asked_for: bool,
}

/// A request whose body must be complete in time, and is told when it is `whole`; and what its handler will have left of it.
pub(super) fn timed(request: Request<Incoming>, whole: impl FnOnce() + Send + 'static) -> (Request<Body>, Rest) {
    let rest = Rest { is_asked_for: request.headers().contains_key(EXPECT), ..Rest::default() };
    let request = request.map(|body| {
        if body.is_end_stream() {
            Body::empty()
        } else {
            let deadline = Box::pin(sleep(BODY_TIMEOUT));
            Body::new(Timed { body: Some(body), deadline, rest: rest.left.clone(), whole: Some(Box::new(whole)) })
        }
    });
    (request, rest)
}

impl Rest {
    /// Reads it, before an answer with this status: 408 has waited for it already.
    pub(crate) async fn read(self, status: StatusCode) {
        let left = self.left.lock().take();
        let Some(mut body) = left.filter(|_| !self.is_asked_for && status != StatusCode::REQUEST_TIMEOUT) else {
            return;
        };
        let mut bytes = 0;
        let all = async {
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > MAX_REST {
                    return;
                }
            }
        };
        // The answer does not wait for the rest.
        let _ = timeout(REST_TIMEOUT, all).await;
    }
}

/// A body that must be complete in time.
struct Timed {
    body: Option<Incoming>,
    deadline: Pin<Box<Sleep>>,
    rest: Arc<Mutex<Option<Incoming>>>,
    whole: Option<Box<dyn FnOnce() + Send>>,
}

impl hyper::body::Body for Timed {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if (body.is_end_stream() || matches!(polled, Poll::Ready(None)))
            && let Some(whole) = self.whole.take()
        {
            whole();
        }
        match polled {
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => self.deadline.as_mut().poll(cx).map(|()| Some(Err("the body took too long".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        *self.rest.lock() = left;
    }
}
