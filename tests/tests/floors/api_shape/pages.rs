//! The API as a web page sees it through a browser (CORS).

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;

use super::scripted::{APP_KEY, Answer, Door};

const OURS: &str = "https://phone.example.com";
const STRANGERS: &str = "https://phone.example.org";

async fn ask(door: &Door, origin: &str, method: &str, path: &str, preflight: bool) -> Answer {
    let mut request = Request::builder().method(if preflight { "OPTIONS" } else { method }).uri(path);
    if preflight {
        request = request
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "authorization,content-type");
    }
    let request = request.header("origin", origin).header("authorization", format!("Bearer {APP_KEY}"));
    door.ask.send(request.body(Full::new(Bytes::new())).unwrap()).await
}

#[tokio::test]
async fn a_page_of_a_named_origin_may_call_and_reads_refusals_too() {
    let door = Door::for_pages(&["https://other.example.com", OURS]);
    for (method, path) in [("POST", "/v1/instances"), ("PATCH", "/v1/instances/x"), ("DELETE", "/v1/instances/x")] {
        let preflight = ask(&door, OURS, method, path, true).await;
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (204, OURS), "{path}");
        assert!(preflight.header("access-control-allow-methods").contains(method));
        assert_eq!(preflight.header("access-control-allow-headers"), "authorization, content-type");
        let refused = ask(&door, OURS, method, path, false).await;
        assert!(refused.status >= 400, "{}", refused.status);
        assert_eq!(refused.header("access-control-allow-origin"), OURS);
        for read in ["retry-after", "x-request-id"] {
            assert!(refused.header("access-control-expose-headers").contains(read));
        }
        assert_eq!(refused.header("access-control-allow-credentials"), "", "no cookie has a part in it");
        assert_eq!(refused.header("vary"), "origin");
    }
}

#[tokio::test]
async fn a_page_of_a_stranger_and_one_that_asks_to_wake_may_not() {
    let door = Door::for_pages(&[OURS]);
    for (origin, path) in [
        (STRANGERS, "/v1/instances"),
        ("null", "/v1/instances"),
        ("https://phone.example.com.evil.org", "/v1/instances"),
        ("http://phone.example.com", "/v1/instances"),
        (OURS, "/v1/wake"),
    ] {
        for preflight in [true, false] {
            let answer = ask(&door, origin, "POST", path, preflight).await;
            assert_ne!(answer.status, 204, "{origin} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), "", "{origin} {path}");
        }
    }
    let door = Door::new();
    let answer = ask(&door, OURS, "POST", "/v1/instances", true).await;
    assert_eq!((answer.status, answer.header("vary")), (405, ""), "none is named");
}
