//! Requests that other nodes work at, and that are given up here: an app or a SIP server has closed its connection before its answer, or this node ends.
//!
//! Invariant: whoever works at a request hears that it was given up, unless it was answered.

use axum::http::{HeaderName, request};

use super::carried::Carried;
use super::elsewhere::with_field;
use crate::random;
use crate::service::nodes::{Body as Letter, NodeService};
use crate::vault::Owner;

/// The number by which other nodes hear that the request was given up. An earlier version does not look at it.
const NUMBER: HeaderName = HeaderName::from_static("sipwake-number");

/// A request that other nodes are asked for. They hear when it is dropped without an answer.
pub(super) struct AskedElsewhere<'a, S: NodeService> {
    service: &'a S,
    number: u128,
    /// The node that is asked; `None`: all.
    node: Option<Owner>,
    has_answer: bool,
}

impl<'a, S: NodeService> AskedElsewhere<'a, S> {
    /// Numbers a request, and its letter, to all nodes or to one.
    pub fn by(service: &'a S, letter: &[u8], node: Option<Owner>) -> (Self, Letter) {
        let number = u128::from_be_bytes(random::bytes());
        let letter = with_field(letter, &NUMBER, format_args!("{number:032x}"));
        (Self { service, number, node, has_answer: false }, letter)
    }

    /// The request has its answer, and no other node works at it any more.
    pub fn answered(mut self) {
        self.has_answer = true;
    }

    /// The SIP server that has asked for it is told to ask another node, which goes on with the same call.
    pub fn sent_elsewhere(mut self) {
        self.has_answer = true;
        self.service.send_elsewhere(self.number);
    }
}

impl<S: NodeService> Drop for AskedElsewhere<'_, S> {
    fn drop(&mut self) {
        if !self.has_answer {
            self.service.give_up_request(self.number, self.node.take());
        }
    }
}

/// Waits until a request that another node has carried here is given up there.
pub(super) async fn given_up_elsewhere<S: NodeService>(service: &S, parts: &request::Parts) {
    // A client's field of this name says nothing.
    let number = parts.extensions.get::<Carried>().and_then(|_| parts.headers.get(NUMBER));
    match number.and_then(|number| u128::from_str_radix(number.to_str().ok()?, 16).ok()) {
        Some(number) => service.request_given_up(number).await,
        None => std::future::pending().await,
    }
}
