//! Enabling at the node that has a call for the device, or has its account registered.
//!
//! ```text
//! app ── any node ─┬─ in a call? ── the owner of the device's instance ─┬─ no: the node that was asked enables it
//!                  └─ registered? ── each other node that lives         └─ yes ── letter ── 102 ── enables it ── its answer ── app
//! ```
//!
//! The call goes on there, in the name of the new instance, and the answer names the edge that has it. An account that is registered there keeps its one
//! Contact, whichever node a balancer has chosen.
//!
//! An app that hangs up meanwhile has enabled nothing there, either (`given_up`): the node that enables the device hears of it.
//!
//! Invariant: of an enabling that another node has begun, what that one says is said, but for an error of its own, or silence: then the node that was asked
//! enables the device, and as the later one of the two that instance stands.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, StatusCode, request};
use axum::response::{IntoResponse as _, Response};
use tokio::time::timeout;

use super::elsewhere::{letter_to, read_response, with_field};
use super::given_up::AskedElsewhere;
use super::problem::{Problem, ProblemType};
use super::{Api, ApiService, carried, peer};
use crate::limits::counted_as;
use crate::service::apps::Enable;
use crate::service::nodes::{Body as Letter, HEARD_WITHIN};

/// The address that has asked, in a letter.
const ASKED_BY: HeaderName = HeaderName::from_static("sipwake-asked-by");
/// How long an enabling that another node has begun is waited for: longer than a SIP server is.
const ENABLED_WITHIN: Duration = Duration::from_secs(12);

/// An enabling that an app has asked this node for.
pub(super) struct Asking<'a> {
    /// The app's id.
    pub app: &'a str,
    /// The requester's address.
    pub from: IpAddr,
    /// The account and the device.
    pub request: &'a Enable,
}

/// An enabling that another node has carried here, for a call or a registration that this one may have.
pub(super) struct Carried(carried::Carried);

/// The address that has asked for an enabling, here or at another node.
pub(super) fn asked_by(request: &Request) -> IpAddr {
    let elsewhere = || request.headers().get(ASKED_BY)?.to_str().ok()?.parse().ok().map(counted_as);
    let is_carried = request.extensions().get::<carried::Carried>().is_some();
    is_carried.then(elsewhere).flatten().unwrap_or_else(|| peer(request))
}

/// Has the node enable the device that has a call for it, or has its account registered; `None`: there is none, and this node is to.
pub(super) async fn carry<E: ApiService>(
    api: &Api<E>,
    asking: &Asking<'_>,
    parts: &request::Parts,
    body: &[u8],
) -> Option<Response> {
    let service = &api.0.service;
    let node = service.node_to_enable_at(asking.app, asking.request).await?;
    let letter = with_field(&letter_to(api, parts, body, HEARD_WITHIN).await?, &ASKED_BY, asking.from);
    let (asked, letter) = AskedElsewhere::by(service, &letter);
    asked.nodes().note(&node);
    let (mut has_begun, mut last) = (false, None);
    let heard = |answer: Letter| match read_response(&answer) {
        Some(begun) if begun.status() == StatusCode::PROCESSING => {
            has_begun = true;
            ControlFlow::Continue(())
        }
        told => {
            last = told;
            ControlFlow::Break(())
        }
    };
    // Too late is as never.
    let _ = timeout(ENABLED_WITHIN, service.ask(&node, letter, HEARD_WITHIN, heard)).await;
    if last.is_some() {
        asked.answered();
    }
    // A node that has not begun may have other keys than this one, or neither call nor registration any more.
    last.filter(|told| has_begun && !told.status().is_server_error())
}

impl Carried {
    /// The mark of such an enabling.
    pub fn of(request: &Request) -> Option<Self> {
        request.extensions().get::<carried::Carried>().cloned().map(Self)
    }

    /// Says that it is done here.
    ///
    /// # Errors
    /// There is no call for the device here, and its account is not registered: nothing is done.
    pub async fn begin<E: ApiService>(&self, api: &Api<E>, app: &str, request: &Enable) -> Result<(), Problem> {
        // Either may have ended since it was asked for.
        if !api.0.service.is_to_be_enabled_here(app, request).await {
            let detail = "No call goes on here for this device, and its account is not registered.";
            return Err(Problem::new(ProblemType::UnknownInstance, detail));
        }
        self.0.tell_early(StatusCode::PROCESSING.into_response()).await;
        Ok(())
    }
}
