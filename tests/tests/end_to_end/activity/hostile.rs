//! Messages and notices that mean no good: huge, wrong, binary, in thousands. The bystander's phone rings on.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::digest::token;
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};

/// A MESSAGE or NOTIFY with any bytes in it, as the SIP server would send it by UDP.
fn request(method: &str, contact: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let id = token();
    let head = format!(
        "{method} {contact} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK{id};rport\r\n\
         From: <sip:bob@example.test>;tag={id}\r\nTo: <sip:mallory@example.test>\r\nCall-ID: {id}\r\n\
         CSeq: 1 {method}\r\nMax-Forwards: 70\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The status of the answer to one request, from a socket of its own.
fn status(world: &World, bytes: &[u8]) -> Option<u16> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    socket.send_to(bytes, ("127.0.0.1", world.relay.setup().ports.udp)).expect("sent");
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).ok()?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}

async fn lend(world: &World) -> Result<(Instance, String), Missed> {
    let mut request = world.enable_request_anew("mallory");
    request["account"]["registrar"] = json!(world.registrar.uri(Transport::Udp));
    request["device"]["alert_push"] = json!({"provider": "apns", "token": token().repeat(4)});
    let lent = world.enable_as(&request).await?;
    let contact = world.registrar.contacts(&lent.aor).pop().expect("a contact").uri;
    Ok((lent, contact))
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_bodies_are_kept_as_they_came_or_refused_and_nothing_breaks() -> Outcome {
    let world = World::attacked().await?;
    let (lent, contact) = lend(&world).await?;
    let huge = vec![b'x'; 17 * 1024];
    let long_type = format!("Content-Type: text/{}\r\n", "x".repeat(400));
    let cases: [(&str, &str, &[u8], u16); 12] = [
        ("MESSAGE", "Content-Type: text/plain\r\n", b"nul\0 and \xff\xfe", 202),
        ("MESSAGE", "Content-Type: image/png\r\n", &[0x89, 0x50, 0x4e, 0x47], 202),
        ("MESSAGE", "", b"", 202),
        ("MESSAGE", "Content-Type: message/cpim\r\n", b"From: x\r\n\r\nhello", 202),
        ("MESSAGE", "Content-Type: text/plain\r\n", &huge, 413),
        ("MESSAGE", &long_type, b"hello", 415),
        ("MESSAGE", "Content-Type: text/plain\r\nContent-Encoding: gzip\r\n", b"hello", 415),
        ("MESSAGE", "Require: holograms\r\n", b"hello", 420),
        ("NOTIFY", "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n", b"\0\xff", 400),
        ("NOTIFY", "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n", &huge, 413),
        ("NOTIFY", "Event: message-summary\r\nContent-Type: text/html\r\n", b"<b>1</b>", 415),
        ("NOTIFY", "Event: \u{7f}\r\n", b"", 489),
    ];
    for (method, headers, body, expected) in cases {
        let answered = status(&world, &request(method, &contact, headers, body));
        assert_eq!(answered, Some(expected), "{method} {headers:?} with {} bytes", body.len());
    }
    let fetched = world.relay.api().of("GET", &lent, "/messages").await?.json();
    let mut bodies: Vec<(String, String)> = Vec::new();
    for message in fetched["messages"].as_array().unwrap() {
        bodies.push((tests::world::text(&message["encoding"]), tests::world::text(&message["body"])));
    }
    bodies.sort();
    let expected =
        [("base64", "bnVsACBhbmQg//4="), ("base64", "iVBORw=="), ("utf-8", ""), ("utf-8", "From: x\r\n\r\nhello")];
    assert_eq!(bodies, expected.map(|(encoding, body)| (encoding.to_owned(), body.to_owned())));
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_and_notices_are_bounded_in_the_store_in_pushes_and_in_memory() -> Outcome {
    let world = World::attacked().await?;
    let (lent, contact) = lend(&world).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    let to = ("127.0.0.1", world.relay.setup().ports.udp);
    let (mut kept, mut refused, mut answers) = (0, 0, [0; 2048]);
    for round in 0..100 {
        for number in 0..10 {
            let body = vec![b'a' + number; 8 * 1024];
            socket.send_to(&request("MESSAGE", &contact, "Content-Type: text/plain\r\n", &body), to).expect("sent");
            let voice = format!("Messages-Waiting: yes\r\nVoice-Message: {}/{round}\r\n", number + 1);
            let summary = "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n";
            socket.send_to(&request("NOTIFY", &contact, summary, voice.as_bytes()), to).expect("sent");
        }
        for _ in 0..20 {
            let Ok(length) = socket.recv(&mut answers) else { break };
            let text = String::from_utf8_lossy(&answers[..length]).into_owned();
            match text.split(' ').nth(1) {
                Some("202") => kept += 1,
                Some("480") => refused += 1,
                _ => {}
            }
        }
    }
    assert!((50..=100).contains(&kept) && refused > 1_000, "{kept} kept, {refused} refused");
    let fetched = world.relay.api().of("GET", &lent, "/messages").await?.json();
    assert_eq!(fetched["messages"].as_array().map(Vec::len), Some(kept));
    let pushes = world.apns.pushes().iter().filter(|push| push.push_type != "voip").count();
    assert!(pushes <= kept + 100, "{pushes} pushes");
    let steps = world.relay.api().of("GET", &lent, "/timeline").await?.json();
    assert!(steps["steps"].as_array().is_some_and(|steps| steps.len() <= 257));
    world.unharmed().await
}
