//! Requests about an instance that another node owns: they are carried to it, and its answer is given as ours.
//!
//! A request that the store alone can answer (kept messages, missed calls) is not carried; nor is one that the owner does not answer in time:
//! then this node answers as far as it can.
//!
//! ```text
//! METHOD PATH            200
//! authorization: …       content-type: …
//!                                              then an empty line, and the body
//! ```
//!
//! A change whose owner has no lease waits for the node that takes the instance over: it leaves, or has died.
//!
//! A call waits where it came in: while a node leaves, the new owner of the instance may not know it. A request about such a call is carried to that
//! node, too. Other nodes ask the leaving node themselves: calls unknown to it, and changes, go to the new owner, and to another node that leaves
//! with it.
//!
//! A wake (`wake`) is carried to every node, and answered by each in the same way. An enabling may be carried to the node that has a call for the device
//! (`enable_elsewhere`).
//!
//! Invariant: every node refuses the same requests, and reads the same of each. A request is carried once: the owner answers it itself, also when the
//! instance has another owner by then. While nodes leave, a call is not reported as unknown before each node that may have it has said so: a phone
//! would stop ringing.

use std::fmt;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request, response};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use tokio::time::{sleep, timeout};
use tower::Service as _;
use zeroize::Zeroizing;

use super::carried::Carried;
use super::handlers::{InstanceAccess, owner_away};
use super::problem::{Problem, ProblemType};
use super::request_id::REQUEST_ID;
use super::{Api, ApiService, Endpoint, body};
use crate::service::devices::AccessError;
use crate::service::nodes::{ANSWER_WAIT, Answering, Body as Letter, HEARD_WITHIN, OwnerAnswer};
use crate::vault::{Owner, Vault};

/// The answer about a change that another node may have made.
pub(crate) const UNSURE: &str = "It is not known whether this was done: the node that looks after the instance was asked, and has not answered in time. Look how the instance stands, or ask for the same again, after the seconds that Retry-After names.";
/// Likewise, of a call.
const CALL_UNSURE: &str = "It is not known whether this was done: the node that has the call was asked, and has not answered in time. Ring on, and ask again after the seconds that Retry-After names.";

/// How long a change waits for the node that takes the instance over: a hand-over takes less, and so does what a dead node has left.
const TAKEN_WITHIN: Duration = Duration::from_secs(3);
/// How often it is looked which one that is.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Until when a request is wanted that a letter carries, in milliseconds since 1970 by the clock of questions.
const WANTED_UNTIL: HeaderName = HeaderName::from_static("sipwake-wanted-until");

/// Of a request, what its handler reads.
const ASKED_WITH: [HeaderName; 4] = [AUTHORIZATION, CONTENT_TYPE, CONTENT_ENCODING, REQUEST_ID];
/// Of an answer, what a client reads.
const ANSWERED_WITH: [HeaderName; 5] = [CONTENT_TYPE, CONTENT_DISPOSITION, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE];

/// The path below which operators ask.
const OPERATORS: &str = "/v1/operator/";

impl Carried {
    /// Gives an answer before the last one.
    pub async fn tell_early(&self, response: Response) {
        if let Some(tell) = &self.0 {
            // An error means that nobody waits any more.
            let _ = tell.send(written(response).await);
        }
    }
}

/// The owner's answer to a request.
enum Owners {
    /// The owner is this node, as far as this one knows.
    Own,
    /// The owner's answer, which reads.
    Said(Letter),
    /// The owner has not answered.
    Silent,
    /// The owner is not asked.
    Refused(AccessError),
}

/// Has the owner of the instance answer, where that is another node.
pub(super) async fn carry<E: ApiService>(State(api): State<Api<E>>, request: Request, next: Next) -> Response {
    // A method that the path does not know is refused here, with those that it knows.
    let Some(endpoint) = asked(&request) else { return next.run(request).await };
    let is_of_call = is_of_call(endpoint.template());
    let is_box = is_box(endpoint);
    let wants_owner = wants_owner(endpoint.template()) && request.extensions().get::<Carried>().is_none();
    let Some(access) = InstanceAccess::of(&request).ok().filter(|_| wants_owner) else {
        return next.run(request).await;
    };
    let (is_leaving, leavers) = (api.0.service.is_leaving(), api.0.service.leavers());
    if is_of_call && (is_leaving || !leavers.is_empty()) {
        return carry_call(&api, &access, &leavers, request, next).await;
    }
    let owner = match api.0.service.owner_elsewhere(access.id, &access.secret, access.from).await {
        Ok(Some(owner)) => owner,
        Ok(None) => return next.run(request).await,
        // A leaving node shows its own data all the same.
        Err(AccessError::StoreAway) if is_leaving => return next.run(request).await,
        Err(error) => return access.refusal(&api, error).into_response(),
    };
    // Before the owner is asked: its answer is here for as long as its reader takes.
    let place = match is_box.then(|| api.0.boxes.place(access.id, access.from)).transpose() {
        Ok(place) => place,
        Err(problem) => return problem.into_response(),
    };
    let (parts, body) = request.into_parts();
    let body = if endpoint.reads_body() { body::take_any(body).await } else { Ok(Letter::default()) };
    let body = match body {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let mut word = ask_owner(&api, &owner, &parts, &body).await;
    if waits_for_taker(endpoint)
        && matches!(word, OwnerAnswer::NotAsked)
        && let Some(taker) = taker(&api, &access, &owner).await
    {
        word = ask_owner(&api, &taker, &parts, &body).await;
    }
    let is_unsure = changes(&parts) && word.is_unsure();
    match (word.said().and_then(|answer| read_response(&answer)), place) {
        (Some(response), None) => response,
        (Some(response), Some(place)) => place.hold(response).await.unwrap_or_else(IntoResponse::into_response),
        (None, place) => {
            drop(place);
            let own = next.run(as_if_owned(parts, &body)).await;
            let detail = if is_of_call { CALL_UNSURE } else { UNSURE };
            if is_unsure { unsure(own, detail).await } else { own }
        }
    }
}

async fn ask_owner<E: ApiService>(api: &Api<E>, owner: &Owner, parts: &request::Parts, body: &[u8]) -> OwnerAnswer {
    match letter_to(api, parts, body, ANSWER_WAIT).await {
        Some(letter) => api.0.service.ask_owner(owner, letter).await,
        None => OwnerAnswer::NotAsked,
    }
}

/// Whether a request waits for the node that takes the instance over: what ends an instance is done by its record.
fn waits_for_taker(endpoint: Endpoint) -> bool {
    !endpoint.method().is_safe() && !matches!(endpoint, Endpoint::Disable) && !is_of_call(endpoint.template())
}

/// The node that takes an instance over from one which has no lease any more, within [`TAKEN_WITHIN`]; `None`: none has, or this one.
async fn taker<E: ApiService>(api: &Api<E>, access: &InstanceAccess, earlier: &Owner) -> Option<Owner> {
    let taken = async {
        loop {
            sleep(LOOK_AGAIN).await;
            match api.0.service.owner_elsewhere(access.id, &access.secret, access.from).await {
                Ok(Some(owner)) if owner == *earlier => {}
                owner => return owner.ok().flatten(),
            }
        }
    };
    timeout(TAKEN_WITHIN, taken).await.ok().flatten()
}

/// The letter for a request, whose answer is waited for `within` this time: what changes something is wanted no longer than that. `None`: the store does not
/// tell the time, and nothing is to be asked.
pub(super) async fn letter_to<E: ApiService>(
    api: &Api<E>,
    parts: &request::Parts,
    body: &[u8],
    within: Duration,
) -> Option<Letter> {
    let letter = write_request(parts, body);
    if !changes(parts) {
        return Some(letter);
    }
    api.0.service.wanted_until(within).await.map(|until| wanted_until(&letter, until))
}

/// Whether a request does more than look.
pub(crate) fn changes(parts: &request::Parts) -> bool {
    !parts.method.is_safe()
}

/// The answer of a node that cannot do itself what it has asked another one in vain, with the right word about what became of that.
pub(crate) async fn unsure(own: Response, detail: &str) -> Response {
    if own.status() != StatusCode::SERVICE_UNAVAILABLE {
        return own;
    }
    let (mut parts, body) = own.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let Ok(serde_json::Value::Object(mut problem)) = serde_json::from_slice(&body) else {
        return Response::from_parts(parts, Body::from(body));
    };
    problem.insert("detail".to_owned(), detail.into());
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(serde_json::Value::from(problem).to_string()))
}

/// Finds the node that knows a call while nodes leave: this one where it leaves, the owner of the instance, then each other one that leaves. That the call is
/// unknown, so that its phone stops ringing, is said when all have said so.
async fn carry_call<E: ApiService>(
    api: &Api<E>,
    access: &InstanceAccess,
    leavers: &[Owner],
    request: Request,
    next: Next,
) -> Response {
    // None of these reads a body.
    let (parts, _) = request.into_parts();
    let mut own = None;
    if api.0.service.is_leaving() {
        let said = written(next.clone().run(as_if_owned(parts.clone(), &[])).await).await;
        if !is_unknown(&said) {
            return given_out(&said);
        }
        own = Some(said);
    }
    let (mut is_silent, mut is_unsure) = (false, false);
    let owners = ask_owner_of(api, access, &parts, &mut is_unsure).await;
    let unknown = match (owners, own) {
        (Owners::Said(said), _) | (Owners::Own, Some(said)) => said,
        // This node's answer is not the complete one.
        (Owners::Silent | Owners::Refused(AccessError::StoreAway), Some(said)) => {
            is_silent = true;
            said
        }
        (Owners::Refused(error), _) => return access.refusal(api, error).into_response(),
        (Owners::Own | Owners::Silent, None) => {
            let own = next.run(as_if_owned(parts.clone(), &[])).await;
            written(if is_unsure { unsure(own, CALL_UNSURE).await } else { own }).await
        }
    };
    if !is_unknown(&unknown) {
        return given_out(&unknown);
    }
    for leaver in leavers {
        let answer = match letter_to(api, &parts, &[], HEARD_WITHIN).await {
            Some(letter) => api.0.service.ask_leaver(leaver, letter).await,
            None => None,
        };
        match answer {
            Some(answer) if status_and_body(&answer).is_none() => is_silent = true,
            Some(answer) if !is_refused(&answer) => return given_out(&answer),
            Some(_) => {}
            None => is_silent = true,
        }
    }
    if is_silent { unheard() } else { given_out(&unknown) }
}

/// Asks the owner of the instance about a call. `is_unsure`: it may have done what it was asked without a word.
async fn ask_owner_of<E: ApiService>(
    api: &Api<E>,
    access: &InstanceAccess,
    parts: &request::Parts,
    is_unsure: &mut bool,
) -> Owners {
    let owner = match api.0.service.owner_elsewhere(access.id, &access.secret, access.from).await {
        Ok(Some(owner)) => owner,
        Ok(None) => return Owners::Own,
        Err(error) => return Owners::Refused(error),
    };
    let Some(letter) = letter_to(api, parts, &[], ANSWER_WAIT).await else { return Owners::Silent };
    let word = api.0.service.ask_owner(&owner, letter).await;
    *is_unsure = changes(parts) && word.is_unsure();
    word.said().filter(|answer| read_response(answer).is_some()).map_or(Owners::Silent, Owners::Said)
}

/// The request for this node's own handler, which asks nobody else.
fn as_if_owned(mut parts: request::Parts, body: &[u8]) -> Request {
    parts.extensions.insert(Carried(None));
    Request::from_parts(parts, Body::from(body.to_vec()))
}

fn given_out(answer: &[u8]) -> Response {
    read_response(answer).unwrap_or_else(unheard)
}

/// Whether the owner of an instance does not know the call, or does not answer yet: nobody learns that who has not shown the secret.
fn is_unknown(answer: &[u8]) -> bool {
    let is_problem = |body: &[u8], kind: ProblemType| {
        let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        problem.is_some_and(|problem| problem["type"] == kind.urn())
    };
    status_and_body(answer).is_some_and(|(_, body)| {
        [ProblemType::UnknownCall, ProblemType::OwnerAway].into_iter().any(|kind| is_problem(body, kind))
    })
}

/// Whether a node that leaves does not have the call, or the instance.
fn is_refused(answer: &[u8]) -> bool {
    let of_none = [StatusCode::NOT_FOUND, StatusCode::UNAUTHORIZED];
    status_and_body(answer).is_none_or(|(status, _)| of_none.contains(&status) || status.is_server_error())
}

/// The answer while no node can say whether a call still waits.
fn unheard() -> Response {
    let detail = "Another node may have this call, and does not answer. Ring on, and ask again after the seconds that Retry-After names.";
    Problem::new(ProblemType::Draining, detail).retry_after(1).into_response()
}

/// How questions of other nodes are answered: by these routes.
pub(super) fn answering(apps: Router, operators: Router, vault: Vault) -> Answering {
    std::sync::Arc::new(move |letter, tell| {
        let (apps, operators, vault) = (apps.clone(), operators.clone(), vault.clone());
        Box::pin(async move {
            let Some(mut request) = read_request(&letter) else {
                // An empty answer is better than a wait for one.
                let _ = tell.send(Zeroizing::default());
                return;
            };
            if let Some(until) = request.headers_mut().remove(WANTED_UNTIL)
                && !is_wanted(&vault, &until).await
            {
                tracing::info!(
                    event = "question-too-late",
                    "another node asked for something that it does not wait for any more; nothing was done"
                );
                // An error means that nobody waits any more, here as below.
                let _ = tell.send(written(owner_away().into_response()).await);
                return;
            }
            let mut router = if request.uri().path().starts_with(OPERATORS) { operators } else { apps };
            request.extensions_mut().insert(Carried(Some(tell.clone())));
            let response = match router.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            let _ = tell.send(written(response).await);
        })
    })
}

/// Whether a request is wanted still. The store is asked, for this node may have stood still with its clocks, or been away from it: then nothing can be
/// done, either.
async fn is_wanted(vault: &Vault, until: &HeaderValue) -> bool {
    let until: Option<u64> = until.to_str().ok().and_then(|until| until.parse().ok());
    let now = vault.question_time_ms().await.ok();
    until.zip(now).is_some_and(|(until, now)| now < until)
}

/// The same letter, with the moment until which what it asks for is wanted.
pub(crate) fn wanted_until(letter: &[u8], until: u64) -> Letter {
    with_field(letter, &WANTED_UNTIL, until)
}

/// The same letter, with something that a node tells another one. No client's field of that name is ever in one.
pub(super) fn with_field(letter: &[u8], name: &HeaderName, value: impl fmt::Display) -> Letter {
    let line = letter.iter().position(|byte| *byte == b'\n').unwrap_or(letter.len());
    let field = format!("\n{name}: {value}");
    let mut out = Zeroizing::new(Vec::with_capacity(letter.len() + field.len()));
    for part in [&letter[..line], field.as_bytes(), &letter[line..]] {
        out.extend_from_slice(part);
    }
    out
}

async fn written(response: Response) -> Letter {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    write_response(&parts, &body)
}

/// Whether the owner alone can answer: the store answers for what it keeps.
fn wants_owner(path: &str) -> bool {
    let by_store = [Endpoint::Messages, Endpoint::ForgetMessage, Endpoint::MissedCalls, Endpoint::ForgetMissedCall];
    path.starts_with(Endpoint::Read.template()) && by_store.iter().all(|endpoint| endpoint.template() != path)
}

fn is_of_call(path: &str) -> bool {
    [Endpoint::Call, Endpoint::Progress, Endpoint::Decline].iter().any(|endpoint| endpoint.template() == path)
}

/// The endpoint that is asked; `None` where the path is none of ours, or does not know the method.
fn asked(request: &Request) -> Option<Endpoint> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let is_it = |endpoint: &&Endpoint| endpoint.template() == path && endpoint.answers(request.method());
    Endpoint::ALL.iter().find(is_it).copied()
}

/// Whether the answer is one of those that are counted (`answer_budget`).
fn is_box(endpoint: Endpoint) -> bool {
    [Endpoint::Export, Endpoint::Timeline, Endpoint::Trace].contains(&endpoint)
}

pub(super) fn write_request(parts: &request::Parts, body: &[u8]) -> Letter {
    write(format!("{} {}", parts.method, parts.uri.path()), &parts.headers, &ASKED_WITH, body)
}

/// The letter for a request of an operator that this node has let in: the letter shows that, and carries no token.
pub(crate) fn write_operators_request(parts: &request::Parts, body: &[u8]) -> Letter {
    let path = parts.uri.path_and_query().map_or(parts.uri.path(), |path| path.as_str());
    write(format!("{} {path}", parts.method), &parts.headers, &ASKED_WITH[1..], body)
}

fn write_response(parts: &response::Parts, body: &[u8]) -> Letter {
    write(parts.status.as_u16().to_string(), &parts.headers, &ANSWERED_WITH, body)
}

fn write(line: String, headers: &HeaderMap, names: &[HeaderName], body: &[u8]) -> Letter {
    let lines = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let fields: Vec<_> = names.iter().flat_map(|name| lines(name).map(|value| (name.as_str(), value))).collect();
    let room = fields.iter().map(|(name, value)| name.len() + value.len() + 3).sum::<usize>();
    let mut out = Zeroizing::new(Vec::with_capacity(line.len() + room + 2 + body.len()));
    out.extend_from_slice(line.as_bytes());
    for (name, value) in fields {
        for part in [b"\n", name.as_bytes(), b": ", value] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\n\n");
    out.extend_from_slice(body);
    out
}

/// The first line, the fields and the body.
fn read(letter: &[u8]) -> Option<(&str, HeaderMap, &[u8])> {
    let end = letter.windows(2).position(|two| two == b"\n\n")?;
    let mut lines = std::str::from_utf8(&letter[..end]).ok()?.split('\n');
    let first = lines.next()?;
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
    }
    Some((first, headers, &letter[end + 2..]))
}

fn read_request(letter: &[u8]) -> Option<Request> {
    let (line, headers, body) = read(letter)?;
    let (method, path) = line.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path).body(Body::from(body.to_vec())).ok()?;
    *request.headers_mut() = headers;
    request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
    Some(request)
}

/// The part of an answer that is read at this node.
pub(crate) fn status_and_body(letter: &[u8]) -> Option<(StatusCode, &[u8])> {
    let (status, _, body) = read(letter)?;
    Some((status.parse().ok()?, body))
}

pub(crate) fn read_response(letter: &[u8]) -> Option<Response> {
    let (status, headers, body) = read(letter)?;
    let mut response = Response::new(Body::from(body.to_vec()));
    *response.status_mut() = status.parse().ok()?;
    *response.headers_mut() = headers;
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answer_read_back() {
        let asked = Request::builder()
            .method("PATCH")
            .uri("/v1/instances/pi_1")
            .header(AUTHORIZATION, "Bearer s")
            .header(CONTENT_TYPE, "application/json")
            .header("cookie", "not carried")
            .header(CONTENT_TYPE, "text/plain")
            .body(())
            .unwrap();
        let letter = write_request(&asked.into_parts().0, b"{\n\n}");
        let request = read_request(&letter).unwrap();
        assert_eq!((request.method().as_str(), request.uri().path()), ("PATCH", "/v1/instances/pi_1"));
        assert_eq!(request.headers().len(), 4);
        assert_eq!(request.headers().get_all(CONTENT_TYPE).iter().count(), 2, "what counts here counts there");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer s");
        assert_eq!(request.headers()[CONTENT_LENGTH], "4");
        let answered = Response::builder().status(503).header(RETRY_AFTER, "5").body(()).unwrap();
        let response = read_response(&write_response(&answered.into_parts().0, b"{}")).unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()[RETRY_AFTER]), (503, &"5".parse().unwrap()));
        let file = ("attachment; filename=\"a.pcap\"", "application/vnd.tcpdump.pcap");
        let answered =
            Response::builder().header(CONTENT_DISPOSITION, file.0).header(CONTENT_TYPE, file.1).body(()).unwrap();
        let response = read_response(&write_response(&answered.into_parts().0, b"trace")).unwrap();
        let fields = [CONTENT_DISPOSITION, CONTENT_TYPE].map(|name| response.headers()[name].clone());
        assert_eq!(fields, [file.0, file.1]);
        let done = Response::builder().status(204).body(()).unwrap();
        let response = read_response(&write_response(&done.into_parts().0, b"")).unwrap();
        assert_eq!((response.status().as_u16(), response.headers().len()), (204, 0), "nothing is invented");
        assert!(read_response(b"").is_none() && read_request(b"GET\n\n").is_none(), "what is torn is no answer");
    }

    #[tokio::test]
    async fn what_is_wanted_no_longer_is_not_done_and_an_earlier_version_names_no_moment() {
        let vault = Vault::open("memory:", crate::vault::Keyring::ephemeral(), "a").expect("opened");
        let now = vault.question_time_ms().await.expect("a clock");
        let asked = Request::builder().method("PATCH").uri("/v1/instances/pi_1").header(CONTENT_TYPE, "text/plain");
        let letter = write_request(&asked.body(()).unwrap().into_parts().0, b"{}");
        for (until, is_done) in [(None, true), (Some(now + 60_000), true), (Some(now), false), (Some(0), false)] {
            let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let (doing, order) = (done.clone(), std::sync::atomic::Ordering::SeqCst);
            let apps = Router::new().fallback(async move |request: Request| {
                assert_eq!(request.headers().len(), 2, "what a handler reads");
                doing.store(true, order);
                StatusCode::NO_CONTENT
            });
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let asked = until.map_or_else(|| letter.clone(), |until| wanted_until(&letter, until));
            answering(apps, Router::new(), vault.clone())(asked, tell).await;
            let said = told.recv().await.expect("an answer");
            let (status, body) = status_and_body(&said).expect("whole");
            assert_eq!((done.load(order), status.as_u16()), (is_done, if is_done { 204 } else { 503 }), "{until:?}");
            assert!(is_done || body.windows(19).any(|part| part == b"Nothing was changed"), "it was not");
        }
    }

    #[test]
    fn what_the_store_keeps_is_not_carried() {
        let carried = |endpoint: &Endpoint| wants_owner(endpoint.template());
        let names: Vec<_> = Endpoint::ALL.iter().filter(|endpoint| carried(endpoint)).collect();
        use Endpoint::{BeginTrace, Call, Change, Decline, Disable, EndTrace};
        use Endpoint::{Export, Progress, Read, Test, Timeline, Trace};
        let by_owner = [Read, Change, Disable, Call, Progress, Decline, Timeline, Export, Test];
        let expected: Vec<_> = by_owner.iter().chain(&[BeginTrace, Trace, EndTrace]).collect();
        assert_eq!(names, expected);
        let waiting: Vec<_> = names.into_iter().filter(|endpoint| waits_for_taker(**endpoint)).collect();
        assert_eq!(waiting, [&Change, &Test, &BeginTrace, &EndTrace]);
        let of_calls: Vec<_> = Endpoint::ALL.iter().filter(|endpoint| is_of_call(endpoint.template())).collect();
        assert!(of_calls.len() == 3 && of_calls.iter().all(|endpoint| !endpoint.reads_body()));
    }
}
