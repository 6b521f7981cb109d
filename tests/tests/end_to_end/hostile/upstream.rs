//! Whoever is not the account's SIP server, at the listeners toward SIP servers.

use std::net::IpAddr;
use std::time::Duration;

use tests::digest::token;
use tests::lines::sdp;
use tests::raw::{ELSEWHERE, Raw, datagrams, statuses};
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::time::timeout;

/// A request from an address, with whatever headers.
fn request(method: &str, uri: &str, headers: &str) -> String {
    let body = if method == "INVITE" { sdp(1) } else { String::new() };
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.66:5099;branch=z9hG4bK{};rport\r\nMax-Forwards: 70\r\n\
         From: \"Mallory\" <sip:bob@example.test>;tag={}\r\nTo: <{uri}>\r\nCall-ID: {}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:mallory@127.0.0.66:5099>\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        token(),
        token(),
        token(),
        body.len()
    )
}

/// The first final response on a connection or a socket of its own.
async fn answer(world: &World, from: IpAddr, transport: Transport, request: &str) -> (u16, String) {
    let to = world.relay.upstream(transport);
    let seen = match transport {
        Transport::Udp => {
            let socket = datagrams(from).await.unwrap();
            socket.send_to(request.as_bytes(), to).await.unwrap();
            let mut space = vec![0; 65_536];
            let (length, _) = timeout(SOON, socket.recv_from(&mut space)).await.expect("an answer").unwrap();
            String::from_utf8_lossy(&space[..length]).into_owned()
        }
        Transport::Tcp | Transport::Tls | Transport::Wss => {
            let raw = match transport {
                Transport::Tls => Raw::tls(from, to, &world.authority, &[]).await,
                _ => Raw::tcp(from, to).await,
            };
            let mut raw = raw.unwrap();
            raw.send(request).await;
            raw.await_text("\r\n\r\n", SOON).await;
            raw.seen()
        }
    };
    (statuses(&seen).first().copied().unwrap_or_default(), seen)
}

const EACH: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_from_anywhere_but_the_accounts_own_server_wakes_nobody() -> Outcome {
    let world = World::attacked().await?;
    let contact = world.registrar.contacts(&world.bystander().aor)[0].uri.clone();
    let pushes = world.apns.count();
    for transport in EACH {
        for method in ["INVITE", "OPTIONS", "MESSAGE", "NOTIFY", "REGISTER", "SUBSCRIBE", "BREW"] {
            let (status, seen) = answer(&world, ELSEWHERE, transport, &request(method, &contact, "")).await;
            assert_eq!(status, 403, "{method} over {transport:?}: {seen}");
        }
        for claim in [
            "P-Asserted-Identity: <sip:bob@example.test>\r\n",
            "Route: <sip:127.0.0.1;lr>\r\n",
            "X-Forwarded-For: 127.0.0.1\r\n",
        ] {
            let (status, seen) = answer(&world, ELSEWHERE, transport, &request("INVITE", &contact, claim)).await;
            assert_eq!(status, 403, "{claim} over {transport:?}: {seen}");
        }
    }
    assert_eq!(world.apns.count(), pushes);
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_contact_is_404_and_an_unknown_method_405_with_allow() -> Outcome {
    let world = World::attacked().await?;
    let contact = world.registrar.contacts(&world.bystander().aor)[0].uri.clone();
    let user = contact.split_once(':').unwrap().1.split_once('@').unwrap().0.to_owned();
    let server: IpAddr = [127, 0, 0, 1].into();
    let changed = if user.ends_with('0') { "1" } else { "0" };
    let near = [
        contact.replace(&user, &format!("{}{changed}", &user[..user.len() - 1])),
        contact.replace(&user, &user[..user.len() - 1]),
        contact.replace(&user, &format!("{user}0")),
        contact.replace(&user, &"b".repeat(200)),
        contact.replace(&user, "alice"),
        contact.replace(&user, "%62%00"),
        contact.replace(&format!("{user}@"), ""),
        format!("sip:{}@127.0.0.1", world.bystander().id),
    ];
    for transport in EACH {
        for uri in &near {
            for from in [server, ELSEWHERE] {
                let (status, seen) = answer(&world, from, transport, &request("INVITE", uri, "")).await;
                assert_eq!(status, 404, "{uri} over {transport:?}: {seen}");
            }
        }
        for method in ["REGISTER", "SUBSCRIBE", "REFER", "PUBLISH", "BREW"] {
            let (status, seen) = answer(&world, server, transport, &request(method, &contact, "")).await;
            assert_eq!(status, 405, "{method} over {transport:?}: {seen}");
            assert!(seen.contains("Allow: INVITE"), "{seen}");
        }
        let (status, seen) = answer(&world, server, transport, &request("OPTIONS", &contact, "")).await;
        assert_eq!(status, 200, "{seen}");
        let spent = request("INVITE", &contact, "").replace("Max-Forwards: 70", "Max-Forwards: 0");
        assert_eq!(answer(&world, server, transport, &spent).await.0, 483);
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_knows_everything_of_a_call_neither_ends_nor_cancels_it() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("trent").await?;
    // A call that waits, and its CANCEL from elsewhere, down to the branch.
    let waiting = world.call_for(&lent)?;
    waiting.expect(180, SOON).await?;
    let invite = waiting.leg().responses(&waiting.first()).last().unwrap().1.clone();
    let text = |name| invite.text(name).unwrap_or_default().to_owned();
    use sip::message::Name;
    let contact = world.registrar.contacts(&lent.aor)[0].uri.clone();
    let via = invite.elements(Name::Via).next().unwrap().to_owned();
    let to = text(Name::To).split(";tag").next().unwrap_or_default().to_owned();
    let cancel = format!(
        "CANCEL {contact} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\n\
         CSeq: 1 CANCEL\r\nContent-Length: 0\r\n\r\n",
        text(Name::From),
        text(Name::CallId),
    );
    for transport in [Transport::Tcp, Transport::Tls] {
        let (status, seen) = answer(&world, ELSEWHERE, transport, &cancel).await;
        assert!(matches!(status, 403 | 481), "{seen}");
    }
    assert!(waiting.expect(487, Duration::from_millis(1)).await.is_err(), "a stranger cancelled the call");
    waiting.cancel().await?;
    waiting.expect(487, SOON).await?;
    // A call that stands, and its BYE from elsewhere, with the very route of the relay.
    let phone = world.wake(&lent).await?;
    let (caller, call) = world.answered_on(&lent, &phone).await?;
    let dialog = caller.leg().dialog();
    for transport in EACH {
        for number in 0..2 {
            let routes: String = dialog.routes[number..].iter().map(|route| format!("Route: {route}\r\n")).collect();
            let bye = request("BYE", &dialog.target, &routes)
                .replace("To: ", "X-To: ")
                .replace("Content-Length", &format!("To: {}\r\nContent-Length", dialog.remote));
            let (status, seen) = answer(&world, ELSEWHERE, transport, &bye).await;
            assert!(matches!(status, 403 | 404 | 481), "{seen}");
        }
    }
    assert!(!call.leg().ended(), "a stranger ended the call");
    caller.bye(SOON).await?;
    call.expect_bye(SOON).await?;
    world.unharmed().await
}
