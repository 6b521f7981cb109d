//! A push from its order to its verdict: to which service, how often, and until when.
//!
//! | room | what it is |
//! | --- | --- |
//! | `service` | the one door: every push of every App |
//! | `recipient` | whether a push is still for the token that it was tried with |
//! | `copies` | a call's push through a service that may take it twice |
//! | `attempt` | the outcome of one try |
//! | `answer`, `answer_body` | the service's answer, its status and its body |
//! | `retries` | when what is no call is tried again |
//! | `not_before` | the pause that a service has asked for |
//!
//! Invariant: every push ends with one verdict, by its deadline at the latest.

pub(super) mod answer;
pub(super) mod answer_body;
pub(super) mod attempt;
mod copies;
pub(super) mod not_before;
pub(super) mod recipient;
pub(super) mod retries;
pub(super) mod service;
