//! Requests that other nodes work at, and that are given up here: an app or a SIP server has closed its connection before its answer, or this node ends.
//!
//! Invariant: whoever works at a request hears that it was given up, unless it was answered; and nobody else.

use std::sync::Arc;

use axum::http::{HeaderName, request};

use super::carried::Carried;
use super::elsewhere::with_field;
use crate::lock::Mutex;
use crate::random;
use crate::service::nodes::{Body as Letter, NodeService};
use crate::vault::Owner;

/// The number by which other nodes hear that the request was given up.
const NUMBER: HeaderName = HeaderName::from_static("sipwake-number");

/// A request that other nodes are asked for. They hear when it is dropped without an answer.
pub(super) struct AskedElsewhere<'a, S: NodeService> {
    service: &'a S,
    number: u128,
    asked: AskedNodes,
}

/// The nodes to which a letter for a request may have gone out; none any more, once the request is over.
#[derive(Clone)]
pub(super) struct AskedNodes(Arc<Mutex<Option<Vec<Owner>>>>);

impl Default for AskedNodes {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl AskedNodes {
    /// A letter is about to go out. Whether it may: the request is not over.
    pub fn note(&self, node: &Owner) -> bool {
        self.0.lock().as_mut().map(|nodes| nodes.push(node.clone())).is_some()
    }

    fn close(&self) -> Option<Vec<Owner>> {
        self.0.lock().take()
    }
}

impl<'a, S: NodeService> AskedElsewhere<'a, S> {
    /// Numbers a request, and its letter.
    pub fn by(service: &'a S, letter: &[u8]) -> (Self, Letter) {
        let number = u128::from_be_bytes(random::bytes());
        let letter = with_field(letter, &NUMBER, format_args!("{number:032x}"));
        (Self { service, number, asked: AskedNodes::default() }, letter)
    }

    /// Notes those that are sent the letter.
    pub fn nodes(&self) -> AskedNodes {
        self.asked.clone()
    }

    /// The request has its answer, and no other node works at it any more.
    pub fn answered(self) {
        self.asked.close();
    }

    /// The SIP server that has asked for it is told to ask another node, which goes on with the same call.
    pub fn sent_elsewhere(self) {
        self.service.send_elsewhere(self.number, &self.asked.close().unwrap_or_default());
    }
}

impl<S: NodeService> Drop for AskedElsewhere<'_, S> {
    fn drop(&mut self) {
        if let Some(nodes) = self.asked.close() {
            self.service.give_up_request(self.number, &nodes);
        }
    }
}

/// Waits until a request that another node has carried here is given up there.
pub(super) async fn given_up_elsewhere<S: NodeService>(service: &S, parts: &request::Parts) {
    match number_of(parts) {
        Some(number) => service.request_given_up(number).await,
        None => std::future::pending().await,
    }
}

fn number_of(parts: &request::Parts) -> Option<u128> {
    // A client's field of this name says nothing.
    parts.extensions.get::<Carried>()?;
    let number = parts.headers.get(NUMBER)?;
    u128::from_str_radix(number.to_str().ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn a_request_that_was_carried_here_has_its_number_and_a_clients_field_is_none() {
        let parts = |is_carried: bool| {
            let (mut parts, ()) = Request::builder().header(NUMBER, "00ff").body(()).expect("a request").into_parts();
            is_carried.then(|| parts.extensions.insert(Carried(None)));
            parts
        };
        assert_eq!(number_of(&parts(true)), Some(255));
        assert_eq!(number_of(&parts(false)), None);
    }
}
