//! A caller behind the SIP server, which passes on what it writes.

use std::net::{IpAddr, Ipv4Addr};

use tests::board::Missed;
use tests::raw::{ELSEWHERE, Raw, datagrams, statuses};
use tests::wire::Transport;
use tests::world::{SOON, World};
use tokio::time::timeout;

/// What a caller writes comes by the one connection that all accounts of the server have: it ends none of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_torn_costs_its_sender_an_answer_and_nobody_the_connection() -> Result<(), Missed> {
    for transport in [Transport::Tls, Transport::Tcp] {
        let mut world = World::with(|setup| setup.transports = vec![Transport::Tls, Transport::Tcp]).await?;
        world.transport = transport;
        world.enable().await?;
        let aor = world.aor();
        let binding = world.registrar.contacts(&aor)[0].clone();
        let head = |n: usize, more: &str, length: usize| {
            format!(
                "INVITE {} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5099;branch=z9hG4bKodd{n}\r\nMax-Forwards: 70\r\n\
                 From: <sip:bob@example.test>;tag=odd\r\nTo: <{aor}>\r\nCall-ID: odd{n}\r\nCSeq: 1 INVITE\r\n\
                 Contact: <sip:bob@127.0.0.1>\r\n{more}Content-Length: {length}\r\n\r\n",
                binding.uri
            )
        };
        for (n, (more, body)) in [
            ("X-Odd: y\r\n".repeat(600), 0),
            (String::new(), 100_000),
            (format!("X-Odd: {}\r\n", "y".repeat(70_000)), 0),
            (format!("X-Odd: {}\r\nl: 4\r\n", "y".repeat(900_000)), 4),
            ("X-Odd: y\r\n".repeat(20_000), 100_000),
            ("Subject: a\nb\r\n".repeat(20_000), 4),
            ("Subject: a\nb\r\n".to_owned(), 0),
            ("Subject: a\rb\r\n".to_owned(), 0),
            ("l: 4\r\n".to_owned(), 4),
            ("Subject: a\nl: 4\r\n".to_owned(), 4),
            ("Odd Name: y\r\nl:\r\n 4\r\n".to_owned(), 4),
            ("Odd Name: y\r\nl: 4\r\n\t\r\n".to_owned(), 4),
        ]
        .into_iter()
        .enumerate()
        {
            let text = head(n, &more, body) + &"x".repeat(body);
            binding.flow.send(&text.into());
        }
        let (caller, push) = world.call_and_push().await?;
        // What went before it on the same connection would have been pushed before it.
        assert_eq!(push["name"], "Bob", "{transport:?}: nobody was woken by the others");
        assert_eq!(world.registrar.registers(&aor).len(), 2, "{transport:?}: nobody registered again");
        assert_eq!(world.apns.count(), 1, "{transport:?}: nobody was woken by the others");
        assert!(world.registrar.contacts(&aor)[0].flow.is_open(), "{transport:?}");
        caller.cancel().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_too_many_headers_is_answered_by_udp_too_and_with_no_more_than_it_had() -> Result<(), Missed> {
    let world = World::over(Transport::Udp).await?;
    let socket = datagrams(ELSEWHERE).await.expect("a socket");
    let many = "X-Odd: y\r\n".repeat(600);
    let request = |more: &str| {
        format!(
            "OPTIONS sip:nobody@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.66:5099;branch=z9hG4bKmany\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: i\r\n\
             CSeq: 1 OPTIONS\r\n{more}\r\n"
        )
    };
    for before in ["", "\r\n", "\r\n\r\n\n"] {
        let sent = request(&many);
        let datagram = format!("{before}{sent}");
        socket.send_to(datagram.as_bytes(), world.relay.upstream(Transport::Udp)).await.expect("sent");
        let mut space = vec![0; 65_536];
        let (length, _) = timeout(SOON, socket.recv_from(&mut space)).await.expect("an answer").expect("a datagram");
        assert_eq!(statuses(&String::from_utf8_lossy(&space[..length])), [400], "{before:?}");
        assert!(length <= sent.len(), "{length}");
    }
    Ok(())
}

/// A server that dials for what a caller wrote begins with that, and goes on with the others' calls.
#[tokio::test(flavor = "multi_thread")]
async fn an_odd_first_message_ends_a_strangers_connection_and_none_of_a_sip_server() -> Result<(), Missed> {
    let mut world = World::with(|setup| setup.transports = vec![Transport::Tls, Transport::Tcp]).await?;
    world.transport = Transport::Tcp;
    world.enable().await?;
    let request = |method: &str, id: &str, more: &str| {
        format!(
            "{method} sip:nobody@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5099;branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:bob@example.test>;tag=odd\r\nTo: <sip:nobody@127.0.0.1>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
             {more}Content-Length: 0\r\n\r\n"
        )
    };
    let relay = world.relay.upstream(Transport::Tcp);
    for (nth, odd) in [
        request("OPTIONS", "odd", &"X-Odd: y\r\n".repeat(600)),
        request("OPTIONS", "odd", &format!("X-Odd: {}\r\n", "y".repeat(70_000))),
        request("@FOO", "odd", ""),
        request("(X", "odd", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut server = Raw::tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), relay).await.unwrap();
        assert!(server.send(odd.clone() + &request("OPTIONS", "next", "")).await);
        assert!(server.await_text("Call-ID: next", SOON).await && !server.has_ended(), "{nth}");
        let mut stranger = Raw::tcp(ELSEWHERE, relay).await.unwrap();
        stranger.send(odd + &request("OPTIONS", "next", "")).await;
        assert!(stranger.await_end(SOON).await.is_some(), "{nth}");
    }
    Ok(())
}
