//! Requests that depend on what is there (RFC 9110 §13).

use http_body_util::Full;
use hyper::Request;
use relay::api::{Endpoint, Peer};

use super::path_of;
use super::scripted::{Answer, Door, SECRET};

async fn ask(door: &Door, endpoint: Endpoint, secret: &str, (name, value): (&str, &str)) -> Answer {
    let peer: std::net::SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let request = Request::builder().method(endpoint.method()).uri(path_of(endpoint)).extension(Peer(peer));
    let request = request.header("authorization", format!("Bearer {secret}")).header(name, value);
    let body = if endpoint == Endpoint::Change { r#"{"lifetime_s": 300000}"# } else { "" };
    door.ask.send(request.header("content-type", "application/json").body(Full::from(body)).unwrap()).await
}

#[tokio::test]
async fn a_request_about_an_instance_whose_condition_is_false_does_nothing() {
    let others = [Endpoint::Enable, Endpoint::Wake, Endpoint::Doctor, Endpoint::Keys];
    let others = [&others[..], &[Endpoint::WebPushKey, Endpoint::OpenApi]].concat();
    for endpoint in Endpoint::ALL.iter().copied().filter(|it| !others.contains(it)) {
        let door = Door::new();
        let answer = ask(&door, endpoint, SECRET, ("if-match", "\"no-such\"")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (412, "precondition-failed"), "{endpoint:?}");
        assert!(door.script.with(|script| script.changed.is_empty() && !script.wiped));
        let answer = ask(&door, endpoint, "another-secret", ("if-match", "\"no-such\"")).await;
        assert_eq!(answer.status, 401, "{endpoint:?}: its secret is judged first");
        let answer = ask(&door, endpoint, SECRET, ("if-match", "*")).await;
        assert_ne!(answer.status, 412, "{endpoint:?}");
    }
}

#[tokio::test]
async fn an_instance_is_there_and_so_a_change_for_want_of_one_is_refused() {
    let door = Door::new();
    assert_eq!(ask(&door, Endpoint::Change, SECRET, ("if-none-match", "*")).await.status, 412);
    assert_eq!(ask(&door, Endpoint::Change, SECRET, ("if-none-match", "\"no-such\"")).await.status, 200);
    assert_eq!(ask(&door, Endpoint::Read, SECRET, ("if-none-match", "*")).await.status, 200);
}
