//! Requests about an instance that another node owns, or that a node which leaves may know of.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use relay::api::Peer;
use relay::secret::InstanceSecret;
use relay::service::devices::AccessError;
use relay::service::nodes::{Body, NodeService, OwnerAnswer};
use relay::vault::Owner;
use serde_json::json;
use sip::id::InstanceId;

use super::scripted::{APP_KEY, Answer, Door, SECRET, Scripted, ringing_call};
use super::{Endpoint, instance_path, path_of};

/// The other nodes.
#[derive(Default)]
pub struct Nodes {
    /// The node that is asked leaves.
    is_leaving: bool,
    /// It ends, and has nothing left but calls.
    is_draining: bool,
    /// Whose the instance is by its record.
    owner: Option<Owner>,
    /// The store does not tell whose it is.
    owner_is_untold: bool,
    /// The store may not name them all.
    pub are_lost: bool,
    /// Those that leave.
    leavers: Vec<Owner>,
    /// What each answers to whatever it is asked; who is not named is silent.
    answers: BTreeMap<Owner, Vec<u8>>,
    /// Who was asked, in order.
    asked: Vec<Owner>,
}

impl NodeService for Scripted {
    async fn owner_elsewhere(
        &self,
        _: InstanceId,
        _: &InstanceSecret,
        _: IpAddr,
    ) -> Result<Option<Owner>, AccessError> {
        match self.with(|script| (script.nodes.owner_is_untold, script.nodes.owner.clone())) {
            (true, _) => Err(AccessError::StoreAway),
            (false, owner) => Ok(owner),
        }
    }

    async fn ask_owner(&self, owner: &Owner, _: Body) -> OwnerAnswer {
        self.answer_of(owner).map_or(OwnerAnswer::Nothing, OwnerAnswer::Said)
    }

    fn is_leaving(&self) -> bool {
        self.with(|script| script.nodes.is_leaving)
    }

    fn is_draining(&self) -> bool {
        self.with(|script| script.nodes.is_draining)
    }

    fn leavers(&self) -> Vec<Owner> {
        self.with(|script| script.nodes.leavers.clone())
    }

    async fn ask_leaver(&self, leaver: &Owner, _: Body) -> Option<Body> {
        self.answer_of(leaver)
    }

    async fn others(&self) -> Option<Vec<Owner>> {
        self.with(|script| (!script.store_away).then(Vec::new))
    }

    async fn were_all(&self) -> bool {
        self.with(|script| !script.nodes.are_lost)
    }

    async fn ask(&self, _: &Owner, _: Body, _: Duration, _: impl FnMut(Body) -> ControlFlow<()> + Send) {}
}

impl Scripted {
    fn answer_of(&self, node: &Owner) -> Option<Body> {
        self.with(|script| {
            script.nodes.asked.push(node.clone());
            script.nodes.answers.get(node).cloned().map(Body::from)
        })
    }
}

fn node(number: u8) -> Owner {
    Owner::parse(&format!("relay{number}.example.net:5061#1")).unwrap()
}

fn letter(status: u16, body: &serde_json::Value) -> Vec<u8> {
    format!("{status}\ncontent-type: application/problem+json\n\n{body}").into_bytes()
}

fn unknown() -> Vec<u8> {
    letter(404, &json!({"type": "urn:sipwake:problem:unknown-call", "title": "Unknown call", "status": 404}))
}

fn waiting() -> Vec<u8> {
    letter(200, &json!({"state": "waiting", "deadline": "2026-11-27T09:00:00Z"}))
}

/// A request for everything of one kind, from an address.
fn fetch(path: &str) -> Request<Full<Bytes>> {
    let peer: SocketAddr = "192.0.2.1:4000".parse().unwrap();
    let request = Request::builder().method("GET").uri(path).extension(Peer(peer));
    request.header("authorization", format!("Bearer {SECRET}")).body(Full::default()).unwrap()
}

/// A call that came in at another node.
fn a_call_elsewhere() -> String {
    path_of(Endpoint::Call).replace(&ringing_call().to_string(), "c_aaaaaaaaaaaaaaaaaaaaaaaaaa")
}

async fn ask(door: &Door, nodes: Nodes) -> Answer {
    door.script.with(|script| script.nodes = nodes);
    door.ask.of("GET", &a_call_elsewhere(), SECRET, "").await
}

#[tokio::test]
async fn a_node_that_leaves_calls_no_call_unknown_which_the_new_owner_may_have() {
    let door = Door::new();
    let leaving = || Nodes { is_leaving: true, owner: Some(node(2)), ..Nodes::default() };
    let answers = |answer: Vec<u8>| BTreeMap::from([(node(2), answer)]);
    let torn = b"200".to_vec();
    for (nodes, why) in [
        (leaving(), "it is silent"),
        (Nodes { answers: answers(torn), ..leaving() }, "its answer is none"),
        (Nodes { owner_is_untold: true, ..leaving() }, "the store does not tell who it is"),
    ] {
        let answer = ask(&door, nodes).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "draining"), "{why}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("Ring on"), "{why}");
        assert_eq!(answer.header("retry-after"), "1");
    }
    let known = ask(&door, Nodes { answers: answers(waiting()), ..leaving() }).await;
    assert_eq!((known.status, &known.json()["state"]), (200, &json!("waiting")));
    for (nodes, why) in [
        (Nodes { answers: answers(unknown()), ..leaving() }, "both have said so"),
        (Nodes { owner: None, ..leaving() }, "it owns the instance still"),
    ] {
        let answer = ask(&door, nodes).await;
        assert_eq!((answer.status, answer.text.contains("unknown-call")), (404, true), "{why}");
    }
    door.script.with(|script| script.nodes = leaving());
    let own = door.ask.of("GET", &path_of(Endpoint::Call), SECRET, "").await;
    assert_eq!((own.status, &own.json()["state"]), (200, &json!("ringing")), "what it knows itself it tells");
    assert!(door.script.with(|script| script.nodes.asked.is_empty()));
}

#[tokio::test]
async fn of_nodes_that_leave_at_once_each_asks_the_others_for_a_call_that_the_owner_does_not_know() {
    let door = Door::new();
    for is_leaving in [true, false] {
        let nodes = |others: &[(u8, Vec<u8>)]| Nodes {
            is_leaving,
            owner: Some(node(2)),
            leavers: vec![node(3), node(4)],
            answers: others.iter().map(|(number, answer)| (node(*number), answer.clone())).collect(),
            ..Nodes::default()
        };
        let known = ask(&door, nodes(&[(2, unknown()), (3, unknown()), (4, waiting())])).await;
        assert_eq!((known.status, &known.json()["state"]), (200, &json!("waiting")), "leaving: {is_leaving}");
        let asked = door.script.with(|script| script.nodes.asked.clone());
        assert_eq!(asked, [node(2), node(3), node(4)]);
        let silent = ask(&door, nodes(&[(2, unknown()), (4, unknown())])).await;
        assert_eq!((silent.status, silent.problem().as_str()), (503, "draining"), "leaving: {is_leaving}");
        let torn = ask(&door, nodes(&[(2, unknown()), (3, Vec::new()), (4, unknown())])).await;
        assert_eq!(torn.status, 503, "leaving: {is_leaving}");
        let none = ask(&door, nodes(&[(2, unknown()), (3, unknown()), (4, unknown())])).await;
        assert_eq!((none.status, none.text.contains("unknown-call")), (404, true), "leaving: {is_leaving}");
    }
}

#[tokio::test]
async fn a_node_that_has_asked_the_owner_in_vain_does_not_say_that_nothing_was_changed() {
    let door = Door::new();
    door.script.with(|script| {
        script.nodes = Nodes { owner: Some(node(2)), ..Nodes::default() };
        script.store_away = true;
    });
    for endpoint in [Endpoint::Change, Endpoint::Disable, Endpoint::Progress, Endpoint::Decline, Endpoint::Read] {
        let answer = door.ask.of(endpoint.method().as_str(), &path_of(endpoint), SECRET, "{}").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "store-away"), "{endpoint:?}");
        let (says, looks) = (answer.json()["detail"].to_string(), endpoint == Endpoint::Read);
        assert_eq!((says.contains("not known"), says.contains("Nothing was changed")), (!looks, looks), "{says}");
        assert!(!answer.header("retry-after").is_empty());
    }
}

#[tokio::test]
async fn a_node_that_leaves_shows_what_it_has_where_the_store_is_away() {
    let door = Door::new();
    let nodes = Nodes { is_leaving: true, owner_is_untold: true, ..Nodes::default() };
    door.script.with(|script| script.nodes = nodes);
    assert_eq!(door.ask.of("GET", &instance_path(), SECRET, "").await.status, 200);
    door.script.with(|script| script.nodes.is_leaving = false);
    let answer = door.ask.of("GET", &instance_path(), SECRET, "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "store-away"));
}

#[tokio::test]
async fn answers_of_another_node_that_wait_to_be_read_are_counted_where_they_were_asked_for() {
    for endpoint in [Endpoint::Export, Endpoint::Timeline, Endpoint::Trace] {
        let (door, path) = (Door::new(), path_of(endpoint));
        let answers = BTreeMap::from([(node(2), letter(200, &json!({"all": true})))]);
        door.script.with(|script| script.nodes = Nodes { owner: Some(node(2)), answers, ..Nodes::default() });
        let asked = || door.script.with(|script| script.nodes.asked.len());
        let mut unread = Vec::new();
        for _ in 0..4 {
            unread.push(door.ask.leave_unread(fetch(&path)).await);
        }
        assert!(unread.iter().all(|answer| answer.status() == 200));
        let refused = door.ask.send(fetch(&path)).await;
        assert_eq!((refused.status, refused.header("retry-after"), asked()), (429, "5", 4), "no letter is written");
        // Small ones are not counted: a phone that asks for its call waits for none of them.
        assert_eq!(door.ask.of("GET", &a_call_elsewhere(), SECRET, "").await.status, 200);
        assert_eq!(unread.pop().unwrap().read().await.json(), json!({"all": true}), "{endpoint:?}");
        assert_eq!(door.ask.send(fetch(&path)).await.status, 200, "what was read makes room");
        door.script.with(|script| script.nodes.answers.clear());
        for _ in 0..5 {
            let own = door.ask.send(fetch(&path)).await;
            assert!([200, 404].contains(&own.status), "a silent owner takes no place: {}", own.status);
        }
    }
}

#[tokio::test]
async fn traces_and_timelines_that_wait_to_be_read_are_counted() {
    for (endpoint, kind) in [(Endpoint::Trace, "application/x-pcapng"), (Endpoint::Timeline, "application/json")] {
        let (door, path) = (Door::new(), path_of(endpoint));
        assert_eq!(door.ask.of("POST", &path_of(Endpoint::BeginTrace), SECRET, "{}").await.status, 202);
        let mut unread = Vec::new();
        for _ in 0..4 {
            unread.push(door.ask.leave_unread(fetch(&path)).await);
        }
        assert!(unread.iter().all(|answer| answer.status() == 200));
        let refused = door.ask.send(fetch(&path)).await;
        assert_eq!((refused.status, refused.problem().as_str()), (429, "too-many-requests"));
        assert_eq!(door.ask.of("GET", &path, "another", "").await.status, 401, "a stranger learns nothing of it");
        unread.pop();
        let whole = door.ask.send(fetch(&path)).await;
        assert_eq!((whole.status, whole.header("content-type")), (200, kind));
    }
}

#[tokio::test]
async fn what_a_request_is_refused_for_is_the_same_at_a_node_that_carries_it() {
    let large = " ".repeat(100_000);
    let answers = || BTreeMap::from([(node(2), letter(204, &json!({})))]);
    let nodes = || Nodes { owner: Some(node(2)), answers: answers(), ..Nodes::default() };
    for endpoint in [Endpoint::Progress, Endpoint::Decline, Endpoint::Test, Endpoint::Disable, Endpoint::EndTrace] {
        for is_leaving in [false, true] {
            let door = Door::new();
            door.script.with(|script| script.nodes = Nodes { is_leaving, ..nodes() });
            let answer = door.ask.of(endpoint.method().as_str(), &path_of(endpoint), SECRET, &large).await;
            assert!(answer.status < 400, "{endpoint:?}: its body is not looked at: {}", answer.text);
        }
    }
    for endpoint in [Endpoint::Change, Endpoint::BeginTrace] {
        let door = Door::new();
        door.script.with(|script| script.nodes = nodes());
        let answer = door.ask.of(endpoint.method().as_str(), &path_of(endpoint), SECRET, &large).await;
        assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"), "{endpoint:?}");
    }
    // A method that the path does not know is no question of the owner's.
    for (method, endpoint, allowed) in
        [("PUT", Endpoint::Read, "PATCH"), ("GET", Endpoint::Progress, "POST"), ("POST", Endpoint::Call, "GET")]
    {
        let door = Door::new();
        let own = door.ask.of(method, &path_of(endpoint), SECRET, "").await;
        door.script.with(|script| script.nodes = nodes());
        let carried = door.ask.of(method, &path_of(endpoint), SECRET, "").await;
        assert_eq!((carried.status, carried.text.as_str()), (405, own.text.as_str()));
        assert!(carried.header("allow").contains(allowed), "{}", carried.header("allow"));
        assert_eq!(carried.header("allow"), own.header("allow"));
        door.script.with(|script| assert!(script.nodes.asked.is_empty()));
    }
    // HEAD is GET without its body, and is carried as that.
    let door = Door::new();
    door.script.with(|script| script.nodes = nodes());
    assert_eq!(door.ask.of("HEAD", &path_of(Endpoint::Read), SECRET, "").await.status, 204);
    door.script.with(|script| assert_eq!(script.nodes.asked, [node(2)]));
}

/// A phone that was woken has nobody else to ask where the node is alone.
#[tokio::test]
async fn a_node_that_ends_answers_of_calls_and_data_and_begins_nothing() {
    let door = Door::new();
    let ask = async |endpoint: Endpoint, body: &str| {
        door.ask.of(endpoint.method().as_str(), &path_of(endpoint), SECRET, body).await
    };
    let begun = [Endpoint::Change, Endpoint::Test, Endpoint::BeginTrace];
    let served = [Endpoint::Call, Endpoint::Progress, Endpoint::Decline, Endpoint::Read, Endpoint::Messages];
    let mut before = Vec::new();
    for endpoint in served {
        before.push((endpoint, ask(endpoint, "").await.status));
    }
    door.script.with(|script| script.nodes.is_draining = true);
    for endpoint in begun {
        let answer = ask(endpoint, "{}").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "draining"), "{endpoint:?}");
        assert_eq!(answer.header("retry-after"), "5");
    }
    let doctor = door.ask.of("POST", Endpoint::Doctor.template(), APP_KEY, "{}").await;
    assert_eq!((doctor.status, doctor.problem().as_str()), (503, "draining"));
    for (endpoint, status) in before {
        assert_eq!((ask(endpoint, "").await.status, status < 300), (status, true), "{endpoint:?}");
    }
    assert_eq!(ask(Endpoint::Disable, "").await.status, 200);
}
