//! The stories of calls, of all nodes: the last ones, and one of them step by step.
//!
//! Invariant: a part that is missing is said: `silent` names nodes that did not answer, `incomplete` says that a store did not, or
//! that a node is still reading what an earlier run has kept, or had more calls than it knows.

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use sip::id::{CallId, InstanceId};

use super::{Operator, answer, elsewhere};
use crate::api::problem::{Problem, ProblemType};
use crate::api::story_views;
use crate::clock::advertised_now_ms;
use crate::domain::Word as _;
use crate::domain::story::StoryOutcome;
use crate::service::OperatorService;
use crate::service::operators::{CallStories, WhichCalls};
use crate::vault::items::STORY_LIFE_S;

/// How many calls are told when `limit` is not named.
const DEFAULT_CALLS: usize = 50;
/// The most calls of an answer.
const MAX_CALLS: usize = 1000;
/// Devices of one call that are told of.
const DEVICES: usize = 64;
/// An hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

pub(super) async fn list<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let which = which(request.uri().query().unwrap_or_default())?;
    let limit = which.limit;
    let told = operator.0.service.calls(which).await;
    let own = own(&operator, &told, story_views::line);
    Ok(answer(&of_all(&operator, request, own, limit).await))
}

pub(super) async fn show<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let unknown = || {
        let detail =
            "No node of this store has a story of such a call: they are kept for a day, and go with their instance.";
        Problem::new(ProblemType::UnknownCall, detail)
    };
    let call = request.uri().path().rsplit('/').next().and_then(CallId::parse).ok_or_else(unknown)?;
    let told = operator
        .0
        .service
        .calls(WhichCalls { call: Some(call), limit: DEVICES, waits: true, ..WhichCalls::default() })
        .await;
    let is_carried = elsewhere::is_carried(&request);
    let own = own(&operator, &told, story_views::whole);
    let all = of_all(&operator, request, own, DEVICES).await;
    let is_known = all["calls"].as_array().is_some_and(|calls| !calls.is_empty());
    let is_whole = all["incomplete"].is_null() && all["silent"].is_null();
    if is_known || is_carried || !is_whole { Ok(answer(&all)) } else { Err(unknown()) }
}

fn own<E>(operator: &Operator<E>, told: &CallStories, view: fn(&crate::domain::story::Story) -> Value) -> Value {
    let node = operator.0.name.get().map_or("", |name| name);
    let calls = told.stories.iter().map(|story| {
        let mut call = view(story);
        call["node"] = node.into();
        call
    });
    let mut own = json!({"calls": calls.collect::<Vec<_>>()});
    if !told.is_whole {
        own["incomplete"] = true.into();
    }
    own
}

/// The stories of this node and of the others, newest first.
async fn of_all<E: OperatorService>(operator: &Operator<E>, request: Request, mut own: Value, limit: usize) -> Value {
    if elsewhere::is_carried(&request) {
        return own;
    }
    let (others, silent) = elsewhere::others(operator, &request.into_parts().0, b"").await;
    let mut calls = own["calls"].as_array_mut().map(std::mem::take).unwrap_or_default();
    for mut other in others {
        calls.append(other["calls"].as_array_mut().unwrap_or(&mut Vec::new()));
        if other["incomplete"] == true {
            own["incomplete"] = true.into();
        }
    }
    // RFC 3339 in UTC with as many digits sorts as text.
    calls.sort_by(|one, other| other["at"].as_str().cmp(&one["at"].as_str()));
    calls.truncate(limit);
    own["calls"] = calls.into();
    elsewhere::name_silent(&mut own, &silent);
    own
}

/// `hours`, `outcome`, `app`, `instance` and `limit` of a query; none needs escapes.
fn which(query: &str) -> Result<WhichCalls, Problem> {
    let wrong = || {
        let outcomes: Vec<_> = StoryOutcome::ALL.iter().map(|outcome| outcome.word()).collect();
        let detail = format!(
            "Use hours=1 to {}, limit=1 to {MAX_CALLS}, app=ID, instance=pi_… and outcome=missed or one of {}, and nothing else.",
            STORY_LIFE_S / 3_600,
            outcomes.join(", ")
        );
        Problem::new(ProblemType::BadRequest, detail)
    };
    let mut which = WhichCalls { limit: DEFAULT_CALLS, waits: true, ..WhichCalls::default() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').ok_or_else(wrong)? {
            ("hours", hours) => {
                let hours: Option<u64> = hours.parse().ok().filter(|hours| (1..=STORY_LIFE_S / 3_600).contains(hours));
                which.since_ms = advertised_now_ms().saturating_sub(hours.ok_or_else(wrong)? * HOUR_MS);
            }
            ("limit", count) => {
                which.limit = count.parse().ok().filter(|count| (1..=MAX_CALLS).contains(count)).ok_or_else(wrong)?;
            }
            ("app", app) if !app.is_empty() => which.app = Some(app.into()),
            ("instance", id) => which.instance = Some(InstanceId::parse(id).ok_or_else(wrong)?),
            ("outcome", "missed") => {
                which.outcomes = StoryOutcome::ALL.iter().copied().filter(|outcome| outcome.is_missed()).collect();
            }
            ("outcome", word) => {
                let outcome = StoryOutcome::ALL.iter().find(|outcome| outcome.word() == word).ok_or_else(wrong)?;
                which.outcomes = vec![*outcome];
            }
            _ => return Err(wrong()),
        }
    }
    Ok(which)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_named_and_nothing_else_passes() {
        let missed = which("outcome=missed&limit=3&app=com.example.phone").unwrap_or_default();
        assert_eq!((missed.limit, missed.app.as_deref()), (3, Some("com.example.phone")));
        assert_eq!(missed.outcomes, [StoryOutcome::Cancelled, StoryOutcome::TimedOut, StoryOutcome::Unreachable]);
        assert!(which("hours=2").is_ok_and(|which| which.since_ms > 0 && which.limit == DEFAULT_CALLS));
        for wrong in
            ["hours=0", "hours=25", "limit=0", "limit=1001", "outcome=lost", "instance=x", "app=", "x=1", "hours"]
        {
            assert!(which(wrong).is_err(), "{wrong}");
        }
    }
}
