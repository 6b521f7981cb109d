//! Devices that want more than their own: at the edge, over good TLS and mostly with good SIP.

use std::time::Duration;

use sip::message::{Message, Name};
use tests::api_client::Instance;
use tests::digest::{Algorithm, Fields, answer, token};
use tests::phone::{self, Phone, Proof};
use tests::raw::{ELSEWHERE, Raw};
use tests::world::{Outcome, SOON, World};

/// The challenge for SHA-256 in a 401.
fn challenge(response: &Message) -> Fields {
    assert_eq!(response.status(), Some(401));
    let mut offered =
        response.values(Name::WwwAuthenticate).filter_map(|v| Fields::parse(std::str::from_utf8(v).ok()?));
    offered.find(|fields| fields.algorithm() == Some(Algorithm::Sha256)).expect("SHA-256 is offered")
}

async fn connected(world: &World, lent: &Instance) -> Phone {
    Phone::connect(world.device(lent)).await.unwrap()
}

async fn once(phone: &Phone, authorization: Option<&str>) -> Option<u16> {
    phone.register_once(authorization.map(str::to_owned), 300, SOON).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_register_opens_nothing_on_its_own_connection_nor_on_another() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let Instance { id, secret, edge, .. } = &lent;
    let phone = connected(&world, &lent).await;
    let given = challenge(&phone.register_once(None, 300, SOON).await?);
    let good = answer(&given, id, secret, "REGISTER", edge, 1).unwrap();
    assert_eq!(once(&phone, Some(&good)).await, Some(200));
    assert_eq!(once(&phone, Some(&good)).await, Some(401), "the same count again");
    let second = answer(&given, id, secret, "REGISTER", edge, 2).unwrap();
    assert_eq!(once(&phone, Some(&second)).await, Some(200));
    assert_eq!(once(&phone, Some(&good)).await, Some(401), "an earlier count");
    let other = connected(&world, &lent).await;
    let unused = answer(&given, id, secret, "REGISTER", edge, 9).unwrap();
    assert_eq!(once(&other, Some(&unused)).await, Some(401), "the nonce is another connection's");
    let made_up = good.replace(given.get("nonce").unwrap(), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(once(&other, Some(&made_up)).await, Some(401), "a nonce that nobody gave");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_secret_of_the_right_instance_attaches() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let victim = world.bystander().clone();
    let own = lent.clone();
    for (what, username, claims, password, proof) in [
        ("a wrong secret", &own.id, &own.id, "wrong", Proof::Digest(Algorithm::Sha256)),
        ("a wrong secret in MD5", &own.id, &own.id, "wrong", Proof::Digest(Algorithm::Md5)),
        ("a wrong token", &own.id, &own.id, "wrong", Proof::Bearer),
        (
            "the account's password",
            &own.id,
            &own.id,
            &*world.registrar.password("mallory").unwrap(),
            Proof::Digest(Algorithm::Sha256),
        ),
        ("another's id, own secret", &victim.id, &victim.id, &*own.secret, Proof::Bearer),
        ("another's From, own user", &own.id, &victim.id, &*own.secret, Proof::Digest(Algorithm::Sha256)),
    ] {
        let settings = phone::Settings {
            aor: format!("sip:{claims}@127.0.0.1"),
            username: username.clone(),
            password: password.to_owned(),
            proof,
            ..world.device(&lent)
        };
        let phone = Phone::connect(settings).await?;
        assert_eq!(phone.register(SOON).await?.status(), Some(403), "{what}");
    }
    // Guessing on one connection ends it.
    let phone =
        Phone::connect(phone::Settings { password: "wrong".to_owned(), proof: Proof::Bearer, ..world.device(&lent) });
    let phone = phone.await?;
    for _ in 0..10 {
        if phone.register(SOON).await.is_err() {
            break;
        }
    }
    phone.await_closed(SOON).await?;
    assert_eq!(world.relay.metric("sipwake_edge_flows").await, Some(0.0));
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_whose_names_differ_is_refused() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let (own, others) = (&lent, &world.bystander());
    for (from, to) in [
        (own.id.as_str(), others.id.as_str()),
        (&others.id, &own.id),
        (&own.id, "mallory"),
        ("mallory", &own.id),
        ("pi_zz", "pi_zz"),
        ("", ""),
    ] {
        let mut raw = Raw::tls(ELSEWHERE, world.relay.edge_address(), &world.authority, &[]).await?;
        let register = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bK{}\r\n\
             From: <sip:{from}@127.0.0.1>;tag=1\r\nTo: <sip:{to}@127.0.0.1>\r\nCall-ID: {}\r\nCSeq: 1 REGISTER\r\n\
             Max-Forwards: 70\r\nContact: <sip:x@127.0.0.66:5099>\r\nAuthorization: Bearer {}\r\n\
             Content-Length: 0\r\n\r\n",
            token(),
            token(),
            own.secret,
        );
        raw.send(register).await;
        raw.await_text("\r\n\r\n", SOON).await;
        assert!(matches!(raw.statuses()[..], [400 | 403 | 416]), "From {from}, To {to}: {}", raw.seen());
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_a_register_and_its_own_dialogs_comes_in_from_a_device() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let contact = world.registrar.contacts(&world.bystander().aor)[0].uri.clone();
    let registered = world.wake(&lent).await?;
    let stranger = Phone::connect(world.device(&lent)).await?;
    let targets = [
        world.bystander().aor.clone(),
        contact,
        format!("sip:{}@127.0.0.1", world.bystander().id),
        world.registrar.uri(tests::wire::Transport::Tcp),
        "sip:+1900123456@gateway.example.test".to_owned(),
        "tel:+1900123456".to_owned(),
    ];
    for phone in [&registered, &stranger] {
        for method in ["INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE", "NOTIFY", "REFER", "PUBLISH", "BYE", "BREW"] {
            for target in &targets {
                let refused = phone.request(method, target, SOON).await?;
                assert_eq!(refused.status(), Some(403), "{method} {target}");
            }
        }
    }
    assert_eq!(world.registrar.violations(), Vec::<String>::new());
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_or_forged_route_leads_nowhere() -> Outcome {
    let world = World::attacked().await?;
    let (victim, thief) = (world.lend("trent").await?, world.lend("mallory").await?);
    let (victim_phone, thief_phone) = (world.wake(&victim).await?, world.wake(&thief).await?);
    let (caller, call) = world.answered_on(&victim, &victim_phone).await?;
    let dialog = call.leg().dialog();
    let route = dialog.routes.first().expect("the relay stays in the path").clone();
    let token = route.split_once(':').and_then(|(_, rest)| rest.split_once('@')).expect("a token").0.to_owned();
    let mut forged: Vec<String> = (0..token.len()).step_by(7).map(|at| flipped(&route, &token, at)).collect();
    forged.extend([
        route.replace(&token, &token[..token.len() - 1]),
        route.replace(&token, &token.repeat(2)),
        route.replace(&token, "AAAA"),
        route.replace(&format!("{token}@"), ""),
        route.clone(),
    ]);
    for (number, route) in forged.iter().enumerate() {
        for flow in ["thief", "victim"] {
            let genuine = number + 1 == forged.len();
            if genuine && flow == "victim" {
                continue;
            }
            let phone = if flow == "thief" { &thief_phone } else { &victim_phone };
            let bye = bye(&dialog, route, number);
            phone.send_raw(bye.as_bytes());
        }
    }
    // What passed would have ended the call before this answer comes.
    thief_phone.ping(SOON).await?;
    victim_phone.ping(SOON).await?;
    assert!(caller.expect_bye(Duration::from_millis(1)).await.is_err(), "a BYE got through");
    assert!(!caller.leg().ended());
    assert_eq!(caller.reinvite(SOON).await?.status(), Some(200), "the call stands");
    call.hang_up(SOON).await?;
    caller.expect_bye(SOON).await?;
    world.unharmed().await
}

/// The route with one character of its token changed.
fn flipped(route: &str, token: &str, at: usize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    route.replace(token, &String::from_utf8(bytes).unwrap())
}

fn bye(dialog: &tests::dialog::Dialog, route: &str, number: usize) -> String {
    format!(
        "BYE {} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bK{}\r\nMax-Forwards: 70\r\nRoute: {route}\r\n\
         From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} BYE\r\nContent-Length: 0\r\n\r\n",
        dialog.target,
        token(),
        dialog.local,
        dialog.remote,
        dialog.call_id,
        900 + number,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_registers_a_million_ways_holds_one_place() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    // Attach, leave, attach again: what succeeded is freed too.
    let phone = Phone::connect(phone::Settings { proof: Proof::Bearer, ..world.device(&lent) }).await?;
    for _ in 0..500 {
        assert_eq!(phone.register(SOON).await?.status(), Some(200));
        assert_eq!(phone.unregister(SOON).await?.status(), Some(200));
    }
    for _ in 0..40 {
        let again = phone::Settings { proof: Proof::Bearer, ..world.device(&lent) };
        Phone::registered(again, SOON).await?;
    }
    // Ids that nobody has, each on a connection that carries more than it may.
    let mut raw = Raw::tls(ELSEWHERE, world.relay.edge_address(), &world.authority, &[]).await?;
    for number in 0..200 {
        let id = format!("pi_{number:026}");
        let register = format!(
            "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bK{}\r\n\
             From: <sip:{id}@127.0.0.1>;tag=1\r\nTo: <sip:{id}@127.0.0.1>\r\nCall-ID: {number}\r\n\
             CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:x@127.0.0.66>\r\nContent-Length: 0\r\n\r\n",
            token(),
        );
        if !raw.send_while_reading(register.as_bytes()).await {
            break;
        }
    }
    raw.finish().await;
    assert!(raw.await_end(SOON).await.is_some());
    // Some of these names are nobody's id: a connection has so many of such.
    assert!(raw.statuses().iter().all(|status| [401, 403, 503].contains(status)), "{:?}", raw.statuses());
    let caller = world.call_for(&lent)?;
    caller.cancel().await?;
    caller.expect(487, SOON).await?;
    world.unharmed().await
}
