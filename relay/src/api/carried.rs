//! The mark of a request that another node has carried here.
//!
//! Invariant: only [`super::elsewhere`] makes it; nothing that a client sends does.

use crate::service::nodes::AnswerSender;

/// A request that another node has carried here, or that this one answers as if it owned what it is about.
#[derive(Clone)]
pub(crate) struct Carried(pub(super) Option<AnswerSender>);
