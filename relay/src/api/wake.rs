//! `POST /v1/wake`: a SIP server at which a call waits has the devices of its callee woken, at whatever node they are.
//!
//! ```text
//! SIP server ── any node ──┬── its own devices
//!                          └── letter ── every other node: key, domain, limits, its own devices ── letter: how many it wakes
//!                                                                                              └── letter: one has come, or none
//! ```
//!
//! Where the SIP server ends its connection before it is answered, each node hears of that: its caller has hung up. So it does of an answer that sends the
//! server elsewhere while devices may still be woken.
//! Where none comes to a node that has woken it, it is looked once more, without a push: a device may have come to another one.
//!
//! Invariant: as everywhere here: key, body, limit, use case; at each node by its own configuration. No AOR is kept or logged. Nobody waits longer than
//! for the beginning of this node's end.

use std::hash::BuildHasher;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use sip::message::Uri;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::Instrument as _;

use super::access::{AdmittedServer, bearer};
use super::carried::Carried;
use super::elsewhere;
use super::given_up::{AskedElsewhere, AskedNodes, given_up_elsewhere};
use super::handlers::{FULL_RETRY_S, STORE_AWAY_RETRY_S, answer, failed, too_many};
use super::problem::{Problem, ProblemType};
use super::wake_tally::{NodeReport, Tally};
use super::{Api, ApiService, body, json as body_json, peer, wake_body};
use crate::agent::request::Arrival;
use crate::service::nodes::Body as Letter;
use crate::service::sip_servers::{AwakeDevices, Expected, Wake, WakeError};
use crate::vault::{AorHash, Owner};

const WANT_SERVER_KEY: &str = "Send the SIP server's key as Authorization: Bearer KEY.";

/// How long another node may take to say which devices it has, DNS included.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// How soon a node that wakes a device is looked at again, whether it lives.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long it is looked where the devices are by now, when none has come to the node that has woken it.
const LOOK: Duration = Duration::from_secs(1);
/// The header of a letter for which nobody is to be woken.
const LOOKS: HeaderName = HeaderName::from_static("sipwake-looks");

/// How long the answer waits for what other nodes know, once a device is awake: a caller waits.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `POST /v1/wake`
pub async fn wake<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let from = peer(&request);
    let shown = bearer(request.headers(), WANT_SERVER_KEY)?;
    let server = api.0.sip_servers.load().admit(shown).ok_or_else(|| failed(&api, from, WANT_SERVER_KEY))?;
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON).await?;
    let mut wake = body_json::parse(&body).and_then(|tree| wake_body::read(&tree))?;
    wake.registrars = server.registrars.clone();
    check_domain(&server, &wake)?;
    wake.looks = parts.extensions.get::<Carried>().is_some() && parts.headers.contains_key(LOOKS);
    if !wake.looks {
        let now = Instant::now();
        api.0.wakes_by_server.take(server.id.clone(), now).map_err(too_many)?;
        // A server whose key wakes nobody there takes nothing from one whose does.
        let asked = api.0.aor_hash.hash_one((&server.id, AorHash::of(&wake.aor)));
        api.0.wakes_by_aor.take(asked, now).map_err(too_many)?;
    }
    // Dropped without an answer where the connection ends before that.
    let (answered, waits) = watch::channel(false);
    let awake = match parts.extensions.get::<Carried>() {
        Some(carried) => {
            drop(body);
            tokio::select! {
                awake = at_this_node(&api, wake, waits, carried) => awake,
                // As where the connection ends: `answered` is dropped without an answer.
                () = given_up_elsewhere(&api.0.service, &parts) => return Err(problem(WakeError::NoneInTime)),
            }
        }
        None => {
            let letter = elsewhere::write_request(&parts, &body);
            drop(body);
            wherever_they_come(&api, wake, waits, letter).await
        }
    };
    answered.send_replace(true);
    let AwakeDevices { awake, known } = awake.map_err(problem)?;
    Ok(answer(StatusCode::OK, &json!({"awake": awake, "known": known})))
}

fn check_domain(server: &AdmittedServer, wake: &Wake) -> Result<(), Problem> {
    let allowed = Uri::parse(wake.aor.expose()).is_some_and(|aor| server.domains.allow(aor.host));
    if allowed { Ok(()) } else { Err(problem(WakeError::DomainNotAllowed)) }
}

/// For another node: how many are woken is told before they come.
async fn at_this_node<E: ApiService>(
    api: &Api<E>,
    wake: Wake,
    waits: watch::Receiver<bool>,
    carried: &Carried,
) -> Result<AwakeDevices, WakeError> {
    let wait = wake.wait;
    let mut expected = api.0.service.expect(wake, waits).await?;
    let known = expected.known;
    if expected.awake == 0 {
        carried.tell_early(answer(StatusCode::ACCEPTED, &json!({"known": known}))).await;
    }
    tokio::select! {
        awake = first_of(&mut expected, wait) => Ok(AwakeDevices { awake: awake?, known }),
        () = api.0.service.leaves() => Err(WakeError::Draining),
    }
}

/// How many are awake with the first that comes.
async fn first_of(expected: &mut Expected, wait: Duration) -> Result<usize, WakeError> {
    if expected.awake == 0 {
        timeout(wait, first_arrival(expected)).await.unwrap_or(Err(WakeError::NoneInTime))?;
        expected.awake = 1;
    }
    while let Ok(arrival) = expected.arrivals.try_recv() {
        expected.awake += usize::from(arrival == Arrival::Came);
    }
    Ok(expected.awake)
}

async fn first_arrival(expected: &mut Expected) -> Result<(), WakeError> {
    let mut unwanted = 0;
    while let Some(arrival) = expected.arrivals.recv().await {
        match arrival {
            Arrival::Came => return Ok(()),
            Arrival::Unwanted => unwanted += 1,
        }
    }
    Err(if unwanted < expected.known { WakeError::NoneInTime } else { WakeError::Unknown })
}

/// Has the devices woken at all nodes. One that is woken at one node may come to another, and be none that the first waits for any more.
async fn wherever_they_come<E: ApiService>(
    api: &Api<E>,
    wake: Wake,
    waits: watch::Receiver<bool>,
    letter: Letter,
) -> Result<AwakeDevices, WakeError> {
    let look = Wake { wait: LOOK, looks: true, ..wake.clone() };
    let letter_of_look = elsewhere::with_field(&letter, &LOOKS, 1);
    let (asked, letter) = AskedElsewhere::by(&api.0.service, &letter);
    let told = match at_all_nodes(api, wake, waits.clone(), (letter, asked.nodes())).await {
        Err(WakeError::NoneInTime) => {
            let found = timeout(LOOK, at_all_nodes(api, look, waits, (letter_of_look, AskedNodes::default()))).await;
            found.ok().and_then(Result::ok).ok_or(WakeError::NoneInTime)
        }
        told => told,
    };
    match told {
        // The other nodes have said all that they will, or wait no longer than the SIP server was to.
        Ok(_) | Err(WakeError::NoneInTime | WakeError::Unknown) => asked.answered(),
        Err(WakeError::OthersSilent | WakeError::OnItsWay | WakeError::Draining) => asked.sent_elsewhere(),
        Err(WakeError::DomainNotAllowed) => drop(asked),
    }
    told
}

async fn at_all_nodes<E: ApiService>(
    api: &Api<E>,
    wake: Wake,
    waits: watch::Receiver<bool>,
    (letter, nodes): (Letter, AskedNodes),
) -> Result<AwakeDevices, WakeError> {
    if api.0.service.is_leaving() {
        // Before another node wakes a phone for a call whose server asks elsewhere.
        return Err(WakeError::Draining);
    }
    let wait = wake.wait;
    let mut until = tokio::time::Instant::now() + wait;
    let (tell, mut words) = mpsc::unbounded_channel();
    // The tasks end with this call.
    let mut asked = JoinSet::new();
    asked.spawn(ask_all(api.clone(), (letter, nodes), tell.clone()));
    let service = api.0.service.clone();
    // The wake goes on without this call: a device on its way here is woken when it comes.
    let mut own = tokio::spawn(async move { service.expect(wake, waits).await }.in_current_span());
    let mut tell = Some(tell);
    let (mut tally, mut was_awake) = (Tally::default(), false);
    loop {
        if let Some(answer) = tally.answer() {
            return answer;
        }
        if tally.is_awake() && !was_awake {
            was_awake = true;
            until = tokio::time::Instant::now() + LAST_WORDS;
        }
        // As long as nothing is known, each node is heard: the words of all come within their own time.
        tokio::select! {
            found = &mut own, if tell.is_some() => {
                let (tell, found) = (tell.take(), found.unwrap_or(Err(WakeError::Draining)));
                tally.hear(own_word(&found)?);
                let woken = found.ok().filter(|expected| expected.known > 0 && expected.awake == 0);
                if let (Some(expected), Some(tell)) = (woken, tell) {
                    asked.spawn(await_own(expected, wait, tell));
                }
            }
            word = words.recv() => match word {
                Some(word) => tally.hear(word),
                None => return tally.answer_now(),
            },
            () = sleep_until(until), if tally.is_known() => return tally.answer_now(),
            // The INVITE comes to this node's successor, or is the same call here.
            () = api.0.service.leaves(), if !tally.is_awake() => return Err(WakeError::Draining),
        }
    }
}

/// This node's answer for its own devices. If it refuses, no other node is waited for.
fn own_word(found: &Result<Expected, WakeError>) -> Result<NodeReport, WakeError> {
    match found {
        Ok(Expected { known, awake, .. }) => Ok(NodeReport::Found { known: *known, awake: *awake }),
        Err(WakeError::Unknown) => Ok(NodeReport::Found { known: 0, awake: 0 }),
        Err(WakeError::OnItsWay) => Ok(NodeReport::Silent),
        Err(refused) => Err(*refused),
    }
}

/// Waits for the first of this node's own devices.
async fn await_own(mut expected: Expected, wait: Duration, tell: mpsc::UnboundedSender<NodeReport>) {
    let word = match first_of(&mut expected, wait).await {
        Ok(awake) => NodeReport::Came(awake),
        Err(WakeError::Unknown) => NodeReport::Unwanted(expected.known),
        Err(_) => NodeReport::Nobody,
    };
    // An error means that the answer was given.
    let _ = tell.send(word);
}

/// Asks every other node.
async fn ask_all<E: ApiService>(
    api: Api<E>,
    (letter, nodes): (Letter, AskedNodes),
    tell: mpsc::UnboundedSender<NodeReport>,
) {
    let (until, others) = tokio::join!(api.0.service.wanted_until(FIRST_WORD), api.0.service.others());
    let letter = elsewhere::wanted_until(&letter, until.unwrap_or_default());
    // A store that does not tell the time is away.
    let others = others.filter(|_| until.is_some());
    // An error means that the answer was given, here as below. The store counts as one more, which is asked beside them whether it has named all.
    let _ = tell.send(NodeReport::Others(others.as_ref().map(|others| others.len() + 1)));
    let mut asked = JoinSet::new();
    if others.is_some() {
        asked.spawn(ask_store(api.clone(), tell.clone()));
    }
    for node in others.into_iter().flatten() {
        if nodes.note(&node) {
            asked.spawn(ask_one(api.clone(), node, letter.clone(), tell.clone()));
        }
    }
    asked.join_all().await;
}

/// The store's part of the answer: nothing, or that there may be nodes which it does not name.
async fn ask_store<E: ApiService>(api: Api<E>, tell: mpsc::UnboundedSender<NodeReport>) {
    let word =
        if api.0.service.were_all().await { NodeReport::Found { known: 0, awake: 0 } } else { NodeReport::Silent };
    let _ = tell.send(word);
}

async fn ask_one<E: ApiService>(api: Api<E>, node: Owner, letter: Letter, tell: mpsc::UnboundedSender<NodeReport>) {
    let (mut told, mut has_ended) = (None, false);
    let heard = |answer: Letter| {
        let word = word_of(&answer, told);
        let _ = tell.send(word);
        match word {
            NodeReport::Found { awake: 0, known: known @ 1.. } => {
                told = Some(known);
                ControlFlow::Continue(())
            }
            _ => {
                told = told.or(Some(0));
                has_ended = true;
                ControlFlow::Break(())
            }
        }
    };
    tokio::select! {
        () = api.0.service.ask(&node, letter, FIRST_WORD, heard) => {}
        () = dies(&api, &node) => {}
    }
    let last = match told {
        None => NodeReport::Silent,
        Some(_) if !has_ended => NodeReport::Lost,
        Some(_) => return,
    };
    let _ = tell.send(last);
}

/// Waits until a node has lost its lease: of the devices there nothing more is heard, and another node wakes them by an edge that is there.
async fn dies<E: ApiService>(api: &Api<E>, node: &Owner) {
    loop {
        sleep(LOOK_AGAIN).await;
        if !api.0.service.lives(node).await {
            return;
        }
    }
}

/// The word in an answer of [`at_this_node`]; one that has `told` how many devices it wakes has spoken before.
fn word_of(answer: &[u8], told: Option<usize>) -> NodeReport {
    let Some((status, body)) = elsewhere::status_and_body(answer) else {
        return if told.is_some() { NodeReport::Lost } else { NodeReport::Silent };
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let count = |name: &str| body[name].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let (known, awake) = (count("known"), count("awake"));
    match (status, told) {
        (StatusCode::ACCEPTED, _) => NodeReport::Found { known, awake: 0 },
        (StatusCode::OK, Some(_)) => NodeReport::Came(awake),
        (StatusCode::OK, None) => NodeReport::Found { known, awake },
        (StatusCode::NOT_FOUND, Some(known)) => NodeReport::Unwanted(known),
        (StatusCode::SERVICE_UNAVAILABLE, Some(_)) => NodeReport::Lost,
        (_, Some(_)) => NodeReport::Nobody,
        // The key wakes nobody there.
        (StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => {
            NodeReport::Found { known: 0, awake: 0 }
        }
        _ => NodeReport::Silent,
    }
}

fn problem(error: WakeError) -> Problem {
    match error {
        WakeError::DomainNotAllowed => Problem::new(
            ProblemType::DomainNotAllowed,
            "This key wakes devices of other SIP domains; the operator can add one under sip_server.domains.",
        ),
        WakeError::Unknown => Problem::new(
            ProblemType::UnknownAor,
            "No device of this address is to be woken here: no app has enabled push for it by a SIP server that serves its domain (sip_server.registrars names others), its lease has ended, its app is open, or the device gets no calls now: go on as without a relay.",
        ),
        WakeError::NoneInTime => Problem::new(
            ProblemType::NoDeviceInTime,
            "Its devices were woken, and none came in time, or all have declined: go on with the other Contacts of the address, and as if nobody answered where there are none.",
        ),
        WakeError::OthersSilent | WakeError::OnItsWay => Problem::new(
            ProblemType::OwnerAway,
            "Another node may have its devices and does not answer, or they are on their way here after a restart or its death: try again, or go on as without a relay.",
        )
        .retry_after(STORE_AWAY_RETRY_S),
        WakeError::Draining => Problem::new(ProblemType::Draining, "Ask another relay.").retry_after(FULL_RETRY_S),
    }
}
