//! Conditional requests (RFC 9110 §13).
//!
//! No answer has an entity tag, so none that a request names is that of an instance, and `*` is each one's.
//!
//! Invariant: a request about an instance whose condition is false does nothing. It is refused as without the condition where its secret is wrong or
//! the instance is gone (RFC 9110 §13.2.1). The other paths have no representation, and keep no conditions.

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::handlers::InstanceAccess;
use super::problem::{Problem, ProblemType};
use super::{Api, ApiService, Endpoint};

/// Lets a request pass whose conditions are true.
pub(super) async fn judge<E: ApiService>(State(api): State<Api<E>>, request: Request, next: Next) -> Response {
    let is_of_instance = request.extensions().get::<MatchedPath>().is_some_and(|path| is_of_instance(path.as_str()));
    if !is_of_instance || are_true(request.method(), request.headers()) {
        return next.run(request).await;
    }
    let Ok(access) = InstanceAccess::of(&request) else { return next.run(request).await };
    let read = api.0.service.read(access.id, &access.secret).await;
    let detail =
        "Nothing was done: there are no entity tags here. Send it without If-Match, and without If-None-Match.";
    match access.judge(&api, read) {
        Ok(_) => Problem::new(ProblemType::PreconditionFailed, detail).into_response(),
        Err(problem) => problem.into_response(),
    }
}

fn is_of_instance(template: &str) -> bool {
    template.starts_with(Endpoint::Read.template())
}

/// Whether the conditions of a request about what is there are true.
fn are_true(method: &Method, headers: &HeaderMap) -> bool {
    let names_all = |name: HeaderName| headers.get_all(name).iter().any(|value| value.as_bytes().trim_ascii() == b"*");
    let matches = !headers.contains_key(IF_MATCH) || names_all(IF_MATCH);
    // Of a safe request it asks for a shorter answer, and 200 is right, too.
    matches && (method.is_safe() || !names_all(IF_NONE_MATCH))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_condition_is_true_where_it_names_whatever_is_there_or_nothing_that_is() {
        for (method, name, value, is_true) in [
            (Method::DELETE, IF_MATCH, "\"no-such\"", false),
            (Method::PATCH, IF_MATCH, "W/\"a\", \"b\"", false),
            (Method::GET, IF_MATCH, "\"no-such\"", false),
            (Method::DELETE, IF_MATCH, "*", true),
            (Method::PATCH, IF_NONE_MATCH, "*", false),
            (Method::PATCH, IF_NONE_MATCH, "\"no-such\"", true),
            (Method::GET, IF_NONE_MATCH, "*", true),
        ] {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
            assert_eq!(are_true(&method, &headers), is_true, "{method} {name}: {value}");
        }
        assert!(are_true(&Method::DELETE, &HeaderMap::new()));
    }
}
