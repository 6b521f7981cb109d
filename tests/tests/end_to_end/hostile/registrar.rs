//! A SIP server that somebody lent an account of in order to harm the relay: scripted, byte by byte.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use sip::message::{Message, Method, Name};
use tests::api_client::Instance;
use tests::board::Board;
use tests::board::Missed;
use tests::digest::token;
use tests::lines::{Lines, sdp};
use tests::wire::{self, Event, Flow, Handler, Tasks};
use tests::world::{Outcome, SOON, World};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it answers to the n-th REGISTER, from 1: any bytes.
type Script = Box<dyn Fn(usize, &Message) -> Vec<Bytes> + Send + Sync>;

/// The SIP server.
struct Villain {
    uri: String,
    seen: Board<Vec<(Flow, Message)>>,
    _tasks: Arc<Tasks>,
}

impl Villain {
    async fn start(world: &World, script: Script) -> Self {
        let (tasks, seen) = (Arc::new(Tasks::default()), Board::<Vec<(Flow, Message)>>::default());
        let board = seen.clone();
        let handler: Handler = Arc::new(move |event| {
            let (flow, message) = match event {
                Event::Message(flow, message) => (flow, message),
                Event::Ping(flow, pong) => return flow.send(&pong),
                _ => return,
            };
            let register = message.method() == Some(Method::Register);
            let count = board.change(|seen| {
                seen.push((flow.clone(), message.clone()));
                seen.iter().filter(|(_, seen)| seen.method() == Some(Method::Register)).count()
            });
            if register {
                script(count, &message).iter().for_each(|bytes| flow.send(bytes));
            }
        });
        let tls = world.authority.server_config(&["example.test", "127.0.0.1"], &[]);
        let address = wire::listen(&tasks, Some(tls), handler).await.unwrap();
        Self { uri: format!("sip:{address};transport=tls"), seen, _tasks: tasks }
    }

    fn registers(&self) -> Vec<Message> {
        let is_register = |message: &Message| message.method() == Some(Method::Register);
        self.seen.read(|seen| seen.iter().map(|(_, m)| m.clone()).filter(is_register).collect())
    }

    fn enable_request(&self, world: &World) -> serde_json::Value {
        let mut request = world.enable_request_anew("mallory");
        request["account"]["registrar"] = json!(self.uri);
        // Each has an AOR of its own, so that none replaces another.
        let user = format!("m{}", token());
        world.secrets.keep("a secret of the test", &format!("{user}@"));
        request["account"]["aor"] = json!(format!("sip:{user}@example.test"));
        request
    }
}

fn challenge(request: &Message, status: u16, parameters: &str) -> Bytes {
    let name = if status == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
    Lines::response(request, status, &token()).line(name, parameters).finish()
}

fn granted(request: &Message, parameters: &str) -> Bytes {
    let contact =
        request.text(Name::Contact).unwrap_or_default().split(";expires").next().unwrap_or_default().to_owned();
    Lines::response(request, 200, &token()).line("Contact", &format!("{contact}{parameters}")).finish()
}

const REALM: &str = "Digest realm=\"example.test\", nonce=\"n1\", qop=\"auth\"";

/// Each script, and what the enabling may be answered.
fn scripts(inside: u16) -> Vec<(&'static str, &'static [u16], Script)> {
    fn ask(parameters: String) -> Script {
        Box::new(move |_, request| vec![challenge(request, 401, &parameters)])
    }
    fn ask_then_take(parameters: String) -> Script {
        Box::new(move |count, request| {
            vec![if count == 1 { challenge(request, 401, &parameters) } else { granted(request, ";expires=600") }]
        })
    }
    fn take(parameters: &'static str) -> Script {
        Box::new(move |_, request| vec![granted(request, parameters)])
    }
    let redirect = format!("<sip:127.0.0.2:{inside};transport=tcp>");
    let path = format!("<sip:127.0.0.2:{inside};transport=tcp;lr>");
    let hundred: Script = Box::new(|count, request| {
        let mut lines = Lines::response(request, 401, "t");
        for number in 0..100 {
            lines = lines.line("WWW-Authenticate", &format!("Digest realm=\"r{number}\", nonce=\"n\", algorithm=MD5"));
        }
        vec![if count == 1 { lines.finish() } else { granted(request, ";expires=600") }]
    });
    vec![
        ("an unterminated quote", &[422], ask("Digest realm=\"example.test, nonce=\"abc".into())),
        (
            "a nonce of 64 kB",
            &[202, 422],
            ask(format!("Digest realm=\"example.test\", nonce=\"{}\"", "n".repeat(65_000))),
        ),
        (
            "a nonce of 40 kB",
            &[202, 422],
            ask(format!("Digest realm=\"example.test\", nonce=\"{}\"", "n".repeat(40_000))),
        ),
        ("a thousand parameters", &[422], ask(format!("{REALM}{}", ", x=y".repeat(1_000)))),
        ("an unknown algorithm", &[422], ask(format!("{REALM}, algorithm=ROT13"))),
        ("an unknown protection", &[422], ask("Digest realm=\"example.test\", nonce=\"n\", qop=\"auth-zq\"".into())),
        ("a control character in the realm", &[422], ask("Digest realm=\"a\x07b\", nonce=\"n\", qop=\"auth\"".into())),
        ("Basic alone", &[422], ask("Basic realm=\"example.test\"".into())),
        ("no challenge at all", &[422], Box::new(|_, r| vec![Lines::response(r, 401, "t").finish()])),
        ("a hundred challenges", &[201, 422], hundred),
        ("a challenge for ever", &[422], ask(REALM.into())),
        (
            "a stale challenge for ever",
            &[202, 422],
            Box::new(|count, request| {
                let parameters = format!("Digest realm=\"example.test\", nonce=\"n{count}\", qop=\"auth\", stale=true");
                vec![challenge(request, 401, &parameters)]
            }),
        ),
        (
            "another realm each time",
            &[202, 422],
            Box::new(|count, request| {
                let parameters =
                    format!("Digest realm=\"bank{count}.test\", nonce=\"n{count}\", qop=\"auth\", stale=true");
                vec![challenge(request, 401, &parameters)]
            }),
        ),
        (
            "401 and 407 in turn",
            &[202, 422],
            Box::new(|count, request| {
                vec![challenge(request, if count % 2 == 0 { 401 } else { 407 }, &format!("{REALM}, stale=true"))]
            }),
        ),
        (
            "a growing Min-Expires",
            &[202, 422],
            Box::new(|count, request| {
                let least = (600_u64 << count.min(40)).to_string();
                vec![Lines::response(request, 423, "t").line("Min-Expires", &least).finish()]
            }),
        ),
        (
            "a Min-Expires of 2^32",
            &[202, 422],
            Box::new(|_, request| vec![Lines::response(request, 423, "t").line("Min-Expires", "4294967296").finish()]),
        ),
        ("an Expires of 2^32", &[201, 202], take(";expires=4294967296")),
        ("an Expires below zero", &[201, 202], take(";expires=-1")),
        ("an Expires of zero", &[202], take(";expires=0")),
        ("an Expires of one", &[201], take(";expires=1")),
        ("2xx without a Contact", &[201, 202], Box::new(|_, r| vec![Lines::response(r, 200, "t").finish()])),
        (
            "ten thousand Contacts",
            &[202],
            Box::new(|_, request| {
                vec![Lines::response(request, 200, "t").line("Contact", &"<sip:a@b>,".repeat(10_000)).finish()]
            }),
        ),
        (
            "a response of five megabytes",
            &[202],
            Box::new(|_, request| vec![Lines::response(request, 200, "t").body("text/plain", &"z".repeat(5_000_000))]),
        ),
        (
            "a response without an end",
            &[202],
            Box::new(|_, _| vec![Bytes::from("SIP/2.0 200 OK\r\n".to_owned() + &"X: y\r\n".repeat(300_000))]),
        ),
        ("no SIP", &[202], Box::new(|_, _| vec![Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")])),
        ("a thousand answers at once", &[201], Box::new(|_, request| vec![granted(request, ";expires=600"); 1_000])),
        (
            "a redirect to the inside",
            &[202, 422],
            Box::new(move |_, request| vec![Lines::response(request, 302, "t").line("Contact", &redirect).finish()]),
        ),
        (
            "a Service-Route to the inside",
            &[201],
            Box::new(move |_, request| {
                let contact = request.text(Name::Contact).unwrap_or_default().to_owned();
                let lines = Lines::response(request, 200, "t").line("Contact", &contact);
                vec![lines.line("Service-Route", &path).line("Path", &path).line("Record-Route", &path).finish()]
            }),
        ),
        (
            "a Retry-After that is none",
            &[202],
            Box::new(|_, request| {
                vec![Lines::response(request, 503, "t").line("Retry-After", "99999999999999").finish()]
            }),
        ),
        (
            "a status that is none",
            &[202, 422],
            Box::new(|_, request| {
                let answer = String::from_utf8(Lines::response(request, 200, "t").finish().to_vec()).unwrap();
                vec![Bytes::from(answer.replacen("SIP/2.0 200", "SIP/2.0 999", 1))]
            }),
        ),
        (
            "a realm with a quote",
            &[201, 422],
            ask_then_take("Digest realm=\"ex\\\"ample\\\\\", nonce=\"a\\\"b\", opaque=\"\\\\\", qop=\"auth\"".into()),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_registrar_gets_few_requests_and_nothing_else_from_the_relay() -> Outcome {
    let world = Arc::new(World::attacked().await?);
    let trap = TcpListener::bind(("127.0.0.2", 0)).await?;
    let mut enablings = JoinSet::new();
    for (what, expected, script) in scripts(trap.local_addr().unwrap().port()) {
        let villain = Villain::start(&world, script).await;
        let world = world.clone();
        enablings.spawn(async move {
            let answer = world.api.enable(&villain.enable_request(&world)).await.unwrap();
            assert!(expected.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
            world.secrets.assert_none_in(what, &answer.text());
            (what, villain)
        });
    }
    world.rings_on(world.bystander()).await?;
    let mut villains = Vec::new();
    while let Some(ended) = enablings.join_next().await {
        villains.push(ended.unwrap());
    }
    world.unharmed().await?;
    for (what, villain) in &villains {
        let registers = villain.registers();
        assert!((1..=8).contains(&registers.len()), "{what}: {} REGISTERs", registers.len());
        let mut realms = BTreeSet::new();
        for register in &registers {
            assert!(register.head().len() < 16_000, "{what}: {} bytes", register.head().len());
            assert_eq!(register.check(), Ok(()), "{what}");
            for value in [Name::Authorization, Name::ProxyAuthorization].iter().filter_map(|name| register.text(*name))
            {
                world.secrets.keep("a secret of the test", value);
                realms.extend(tests::digest::Fields::parse(value).and_then(|it| it.get("realm").map(str::to_owned)));
            }
        }
        assert!(realms.len() <= 1, "{what}: the digest was made for {realms:?}");
    }
    let caught = tokio::time::timeout(std::time::Duration::from_millis(1), trap.accept()).await;
    assert!(caught.is_err(), "the relay followed a server to the inside");
    world.unharmed().await
}

/// An instance whose SIP server is scripted here, and the flow that it registered on.
async fn lent_to(world: &World, villain: &Villain) -> Result<(Instance, Flow, String), Missed> {
    let lent = world.enable_as(&villain.enable_request(world)).await?;
    let (flow, register) = villain.seen.read(|seen| seen.last().cloned()).unwrap();
    let contact = register.contacts()[0].target().unwrap().to_owned();
    Ok((lent, flow, contact))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_inside_a_call_is_the_devices_and_never_answered_by_the_relay() -> Outcome {
    let world = World::attacked().await?;
    let villain = Villain::start(&world, Box::new(|_, request| vec![granted(request, ";expires=600")])).await;
    let (lent, flow, contact) = lent_to(&world, &villain).await?;
    let phone = world.wake(&lent).await?;
    let own = format!("sip:{};transport=tls", flow.local());
    let head = |method: &str, to: &str, number: u32| {
        Lines::request(method, &contact)
            .line("Via", &format!("SIP/2.0/TLS {};branch=z9hG4bK{}", flow.local(), token()))
            .line("Max-Forwards", "70")
            .line("From", "<sip:bob@example.test>;tag=villain")
            .line("To", to)
            .line("Call-ID", "villainous")
            .line("CSeq", &format!("{number} {method}"))
            .line("Contact", &format!("<{own}>"))
    };
    flow.send(&head("INVITE", &format!("<{}>", lent.aor), 1).body("application/sdp", &sdp(1)));
    let call = phone.next_invite(SOON).await?;
    call.answer();
    let accepted = villain.seen.wait(SOON, |seen| {
        seen.iter().map(|(_, message)| message.clone()).find(|message| message.status() == Some(200))
    });
    let accepted = accepted.await.unwrap();
    let routes: Vec<String> = accepted.elements(Name::RecordRoute).map(str::to_owned).collect();
    let mut ack = head("ACK", accepted.text(Name::To).unwrap(), 1);
    for route in routes.iter().rev() {
        ack = ack.line("Route", route);
    }
    flow.send(&ack.finish());
    call.expect_ack(SOON).await?;
    for (status, method) in [(401, "INFO"), (407, "INVITE"), (407, "BYE")] {
        let body = (method == "INVITE").then(|| sdp(2));
        let sent = call.leg().send(method, &[], body.as_deref().map(|sdp| ("application/sdp", sdp)));
        let came = villain.seen.wait(SOON, |seen| {
            let of = |message: &Message| message.method_text() == Some(method);
            seen.iter().find(|(_, message)| of(message)).cloned()
        });
        let (flow, request) = came.await.unwrap();
        assert!(!request.has(Name::Authorization) && !request.has(Name::ProxyAuthorization));
        flow.send(&challenge(&request, status, REALM));
        let passed = call.leg().expect(&sent, status, SOON).await?;
        let name = if status == 401 { Name::WwwAuthenticate } else { Name::ProxyAuthenticate };
        assert_eq!(passed.text(name), Some(REALM), "as the server wrote it");
    }
    world.unharmed().await?;
    let answered = villain.seen.read(|seen| {
        let proves = |m: &Message| m.has(Name::Authorization) || m.has(Name::ProxyAuthorization);
        seen.iter().filter(|(_, message)| proves(message)).count()
    });
    assert_eq!(answered, 0, "the relay gave a digest away");
    let byes = villain.seen.read(|seen| seen.iter().filter(|(_, m)| m.method_text() == Some("BYE")).count());
    assert_eq!(byes, 1);
    Ok(())
}
