//! The instances of all nodes: list, find, show, wipe, export, and the recording of one's SIP.
//!
//! Invariant: nothing here tells whose an instance is: an account is named by its hash alone.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use sip::id::InstanceId;

use super::subject::{instance, refusal};
use super::{Operator, answer, elsewhere};
use crate::api::body;
use crate::api::json::{self as body_json, At, Errors, Json};
use crate::api::problem::{Problem, ProblemType};
use crate::api::views;
use crate::service::OperatorService;
use crate::service::devices::TraceRequest;
use crate::service::operators::Which;
use crate::service::views::Wiped;
use crate::vault::AorHash;

/// How many instances a page has when `limit` is not named.
const DEFAULT_PAGE: usize = 100;
/// The most instances of a page.
const MAX_PAGE: usize = 1000;
pub(super) async fn list<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let (after, limit, which) = paging(request.uri().query().unwrap_or_default())?;
    let (mut pages, mut silent) = if elsewhere::is_carried(&request) {
        (Vec::new(), Vec::new())
    } else {
        elsewhere::others(&operator, &request.into_parts().0, b"").await
    };
    silent.extend(operator.0.service.unclaimed().await);
    pages.push(views::page(&operator.0.service.list(after, limit, which).await.map_err(refusal)?));
    Ok(answer(&elsewhere::one_page(pages, &silent, limit)))
}

pub(super) async fn find<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let is_carried = elsewhere::is_carried(&request);
    let (parts, body) = request.into_parts();
    let taken = body::take(&parts.headers, body, body::JSON).await?;
    let hash = find_body(&body_json::parse(&taken)?)?;
    let (others, mut silent) =
        if is_carried { (Vec::new(), Vec::new()) } else { elsewhere::others(&operator, &parts, &taken).await };
    silent.extend(operator.0.service.unclaimed().await);
    let found = views::found(&operator.0.service.find(hash).await.map_err(refusal)?);
    Ok(answer(&elsewhere::all_found(found, others, &silent)))
}

/// `{"aor_sha256": "64 hex digits"}`
fn find_body(body: &Json) -> Result<AorHash, Problem> {
    let mut errors = Errors::default();
    let object = At::root(body).object(&["aor_sha256"], &mut errors);
    let hash = object.and_then(|body| {
        let at = body.require("aor_sha256", &mut errors)?;
        let hash = match at.value {
            Json::Text(text) => AorHash::parse(text),
            _ => None,
        };
        hash.or_else(|| errors.add(&at.pointer, "expected 64 hex digits: SHA-256 of user@host"))
    });
    errors.into_result(hash)
}

pub(super) async fn show<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let listed = operator.0.service.show(instance(&request)?).await.map_err(refusal)?;
    Ok(answer(&views::listed(&listed)))
}

pub(super) async fn wipe<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let wiped = operator.0.service.wipe(instance(&request)?).await.map_err(refusal)?;
    let mut response = answer(&views::wiped(&wiped));
    if wiped == Wiped::Wiping {
        *response.status_mut() = StatusCode::ACCEPTED;
    }
    Ok(response)
}

pub(super) async fn export<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let export = operator.0.service.export(instance(&request)?).await.map_err(refusal)?;
    Ok(answer(&views::export(&export)))
}

pub(super) async fn begin_trace<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let id = instance(&request)?;
    let trace = crate::api::trace::read(request).await?;
    crate::api::trace::answered(operator.0.service.trace(id, trace).await)
}

pub(super) async fn trace<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    crate::api::trace::answered(operator.0.service.trace(instance(&request)?, TraceRequest::Read).await)
}

pub(super) async fn end_trace<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    crate::api::trace::answered(operator.0.service.trace(instance(&request)?, TraceRequest::End).await)
}

/// `after`, `limit`, `app` and `domain` of a query; none needs escapes.
fn paging(query: &str) -> Result<(Option<InstanceId>, usize, Which), Problem> {
    let wrong = || {
        let detail = "Use after=pi_… (the next of the page before), limit=1 to 1000, app=ID and domain=example.com, and nothing else.";
        Problem::new(ProblemType::BadRequest, detail)
    };
    let (mut after, mut limit, mut which) = (None, DEFAULT_PAGE, Which::default());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').ok_or_else(wrong)? {
            ("after", id) => after = Some(InstanceId::parse(id).ok_or_else(wrong)?),
            ("limit", count) => {
                limit = count.parse().ok().filter(|count| (1..=MAX_PAGE).contains(count)).ok_or_else(wrong)?;
            }
            ("app", app) if !app.is_empty() => which.app = Some(app.into()),
            ("domain", domain) if !domain.is_empty() => which.domain = Some(domain.to_ascii_lowercase().into()),
            _ => return Err(wrong()),
        }
    }
    Ok((after, limit, which))
}
