//! Requests of an operator about instances that other nodes own: any node answers for all of them.
//!
//! | asked | answered |
//! | --- | --- |
//! | of one instance | by its owner, to which the request is carried by letter; by its record, when the owner is gone |
//! | `list`, `find` | by all nodes that live; `silent` names those that did not answer, and those whose instances may not be known anywhere yet: they start, or are dead and no node has taken over their instances |
//!
//! The others are asked first, then the store for unclaimed instances, and this node's shards last: an instance that changes hands meanwhile is told
//! twice, or its node is named, and is never left out.
//!
//! Invariant: a request is carried once. A letter carries no token: that it opens shows that a node of this store has let the
//! operator in.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use sip::id::InstanceId;
use tokio::task::JoinSet;

use super::{Endpoint, Operator};
use crate::api::body;
use crate::api::carried::Carried;
use crate::api::elsewhere::{self, read_response, status_and_body, write_operators_request};
use crate::service::OperatorService;
use crate::service::nodes::OwnerAnswer;
use crate::service::operators::OperatorError;

/// Has the owner of the instance answer, where that is another node.
pub(super) async fn carry<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let is_of_one = path.as_deref().is_some_and(|path| path.starts_with(Endpoint::Show.template()));
    let is_trace = path.as_deref() == Some(Endpoint::Trace.template());
    let id = super::subject::instance(&request).ok().filter(|_| is_of_one && !is_carried(&request));
    let Some(id) = id else { return next.run(request).await };
    let owner = match operator.0.service.owner_of(id).await {
        Ok(Some(owner)) => owner,
        // The trace of a registration that is gone may be here all the same.
        Err(OperatorError::Unknown) if is_trace => return next.run(request).await,
        Ok(None) => return next.run(request).await,
        Err(error) => return super::subject::refusal(error).into_response(),
    };
    let (parts, body) = request.into_parts();
    let body = match body::take_any(body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let (letter, changes) = (write_operators_request(&parts, &body), elsewhere::changes(&parts));
    let letter = if changes {
        operator.0.service.question_until().await.map(|until| elsewhere::wanted_until(&letter, until))
    } else {
        Some(letter)
    };
    let word = match letter {
        Some(letter) => operator.0.service.ask_node(&owner, letter).await,
        None => OwnerAnswer::NotAsked,
    };
    let is_unsure = changes && word.is_unsure();
    if let Some(response) = word.said().and_then(|answer| read_response(&answer)) {
        return response;
    }
    let own = next.run(Request::from_parts(parts, Body::from(body.to_vec()))).await;
    if is_unsure { elsewhere::unsure(own, elsewhere::UNSURE).await } else { own }
}

/// Whether another node has carried it here.
pub(super) fn is_carried(request: &Request) -> bool {
    request.extensions().get::<Carried>().is_some()
}

/// The other nodes' answers to the same request, and the names of nodes that do not answer, or that an answer names.
pub(super) async fn others<E: OperatorService>(
    operator: &Operator<E>,
    parts: &Parts,
    body: &[u8],
) -> (Vec<Value>, Vec<String>) {
    let service = &operator.0.service;
    let Some(nodes) = service.other_nodes().await else { return (Vec::new(), vec!["unknown".to_owned()]) };
    let mut asked = JoinSet::new();
    for node in nodes {
        let (service, letter) = (service.clone(), write_operators_request(parts, body));
        asked.spawn(async move {
            let answer = service.ask_node(&node, letter).await.said();
            let read = answer.as_deref().and_then(|answer| status_and_body(answer));
            let body = read.filter(|(status, _)| *status == StatusCode::OK).map(|(_, body)| body);
            body.and_then(|body| serde_json::from_slice(body).ok()).ok_or_else(|| node.node().to_string())
        });
    }
    let (mut told, mut silent): (Vec<Value>, _) = (Vec::new(), Vec::new());
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(answer)) => {
                silent.extend(names_in(&answer));
                told.push(answer);
            }
            Ok(Err(node)) => silent.push(node),
            Err(_) => silent.push("unknown".to_owned()),
        }
    }
    if !service.named_all().await {
        silent.push("unknown".to_owned());
    }
    (told, silent)
}

/// The pages of all nodes as one of at most `limit`: what lies behind the end of a node's page is for the next.
pub(super) fn one_page(pages: Vec<Value>, silent: &[String], limit: usize) -> Value {
    let id = |value: &Value| value.as_str().and_then(InstanceId::parse);
    let mut bound = pages.iter().filter_map(|page| id(&page["next"])).min();
    let mut all: Vec<(InstanceId, Value)> = Vec::new();
    for mut page in pages {
        if let Some(instances) = page["instances"].as_array_mut() {
            all.extend(instances.drain(..).filter_map(|instance| Some((id(&instance["instance"])?, instance))));
        }
    }
    all.sort_by_key(|(id, _)| *id);
    all.dedup_by_key(|(id, _)| *id);
    all.retain(|(id, _)| bound.is_none_or(|bound| *id <= bound));
    if all.len() > limit {
        all.truncate(limit);
        bound = all.last().map(|(id, _)| *id);
    }
    let instances: Vec<Value> = all.into_iter().map(|(_, instance)| instance).collect();
    let mut page = json!({"instances": instances, "next": bound.map(|bound| bound.to_string())});
    name_silent(&mut page, silent);
    page
}

/// The instances that all nodes have found.
pub(super) fn all_found(mut own: Value, others: Vec<Value>, silent: &[String]) -> Value {
    if let Some(found) = own["instances"].as_array_mut() {
        for mut other in others {
            found.append(other["instances"].as_array_mut().unwrap_or(&mut Vec::new()));
        }
        found.sort_by(|one, other| one["instance"].as_str().cmp(&other["instance"].as_str()));
        found.dedup_by(|one, other| one["instance"] == other["instance"]);
    }
    name_silent(&mut own, silent);
    own
}

pub(super) fn name_silent(answer: &mut Value, silent: &[String]) {
    let names: BTreeSet<&String> = silent.iter().collect();
    if !names.is_empty() {
        answer["silent"] = json!(names);
    }
}

fn names_in(answer: &Value) -> Vec<String> {
    let names = answer["silent"].as_array().into_iter().flatten();
    names.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn page(ids: &[u128], next: Option<u128>) -> Value {
        let text = |number: &u128| InstanceId::new(number << 64, ShardTag(1)).to_string();
        let instances: Vec<Value> = ids.iter().map(|id| json!({"instance": text(id)})).collect();
        json!({"instances": instances, "next": next.as_ref().map(text)})
    }

    #[test]
    fn pages_of_many_nodes_are_one_and_nothing_is_left_out_or_told_twice() {
        let all = |pages, limit| one_page(pages, &[], limit);
        assert_eq!(all(vec![page(&[1, 4], None), page(&[2], None)], 5), page(&[1, 2, 4], None));
        assert_eq!(all(vec![page(&[1, 9], Some(9)), page(&[2, 3], Some(3))], 5), page(&[1, 2, 3], Some(3)));
        assert_eq!(all(vec![page(&[1, 3], None), page(&[2, 4], None)], 3), page(&[1, 2, 3], Some(3)));
        assert_eq!(all(vec![page(&[], None)], 3), page(&[], None));
        assert_eq!(
            all(vec![page(&[1, 2], None), page(&[2], None)], 3),
            page(&[1, 2], None),
            "it changed hands meanwhile"
        );
        let silent = ["b", "a", "b"].map(str::to_owned);
        assert_eq!(one_page(vec![page(&[1], None)], &silent, 3)["silent"], json!(["a", "b"]));
    }
}
