//! Other stock programs: Linphone as the phone, sipsak as the one who asks whether the account is there. And who writes to
//! Kamailio what it passes on, and others would read otherwise.

use std::process::Command;

use tests::child::Child;
use tests::digest::token;
use tests::kamailio::{Manner, Reach};
use tests::linphone::Linphone;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::{Outcome, World};

#[tokio::test(flavor = "multi_thread")]
async fn linphone_as_the_phone_is_woken_answers_and_hangs_up() -> Outcome {
    // Its TLS knows certificates for names alone, not for addresses.
    let (world, instance) = World::real_and_lent(Plan { edge_host: "localhost", ..Plan::over(Transport::Tls) }).await?;
    for (nth, scenario) in [Scenario::CalleeHangsUp, Scenario::CallerHangsUp].into_iter().enumerate() {
        let caller = world.sipp_calls(scenario)?;
        let push = world.next_call_push(&instance).await?;
        let phone = Linphone::start(&tests::world::stock::stock_account(&instance), "sipwake", &world.authority)?;
        phone.await_registered(SOON).await?;
        phone.await_incoming(SOON).await?;
        phone.accept().unwrap();
        phone.await_established(SOON).await?;
        if scenario == Scenario::CalleeHangsUp {
            phone.hang_up().unwrap();
        }
        if let Err(missed) = caller.finish(SOON).await {
            panic!("{missed}\n{}", phone.output());
        }
        assert_eq!(world.state(&instance, &push).await?, "answered");
        assert_eq!(world.pushes(), nth as u64 + 1);
    }
    world.farewell(&instance).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_account_for_its_options_is_answered_while_the_phone_sleeps() -> Outcome {
    for transport in [Transport::Udp, Transport::Tls] {
        let world = World::real(Plan::over(transport)).await?;
        world.lend_own().await?;
        let server = world.registrar.address(Transport::Udp);
        let mut sipsak = Command::new("sipsak");
        sipsak.args(["-vvv", "-p", &server.to_string(), "-s", &world.registrar.aor(&world.registrar.user)]);
        let sipsak = Child::spawn(sipsak, "sipsak").unwrap();
        sipsak.await_line("SIP/2.0 200", SOON).await?;
        let allow = sipsak.await_line("Allow:", SOON).await?;
        for method in ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "NOTIFY"] {
            assert!(allow.contains(method), "{allow}");
        }
        assert!(sipsak.exit(SOON).await?.success(), "{}", sipsak.output());
        assert_eq!(world.pushes(), 0, "nobody is woken for a question");
        world.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_writes_with_bare_lfs_costs_no_other_its_call() -> Outcome {
    bare_lfs_cost_no_call(Plan::over(Transport::Tls)).await
}

/// What it says of itself is another's name, as of a registrar behind it, or nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_writes_with_bare_lfs_costs_no_call_behind_a_server_that_hides_what_it_is() -> Outcome {
    bare_lfs_cost_no_call(Plan { manner: Manner::Disguised, ..Plan::over(Transport::Tls) }).await
}

/// Its calls come by a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_writes_with_bare_lfs_costs_no_call_of_a_server_that_dials_the_contact() -> Outcome {
    bare_lfs_cost_no_call(Plan { manner: Manner::Disguised, reach: Reach::Contact, ..Plan::over(Transport::Tls) }).await
}

/// Kamailio reads a bare LF as the end of a line, and passes it on: what has another end for others ends and swallows nothing.
async fn bare_lfs_cost_no_call(plan: Plan) -> Outcome {
    let is_known = plan.manner != Manner::Disguised;
    let (world, instance) = World::real_and_lent(plan).await?;
    let (server, aor) = (world.registrar.address(Transport::Udp), world.registrar.aor(&world.registrar.user));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    if !is_known {
        // One that hides what it is is asked when the end of a message was in doubt, and no sooner.
        world.sipp_calls(Scenario::CallerCancels)?.finish(SOON).await?;
        let id = token();
        let odd = format!(
            "INVITE {aor} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\nFrom: <sip:x@h>;tag={id}\r\n\
             To: <{aor}>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{own}>\r\nContent-Length: 4\r\nX: b\n\n\r\n\r\n"
        );
        socket.send_to(odd.as_bytes(), server).await.unwrap();
        // What comes while another connection takes the place of the doubtful one is lost.
        let mut tries = 0;
        while let Err(missed) = world.sipp_calls(Scenario::CallerCancels)?.finish(SOON).await {
            tries += 1;
            assert!(tries < 3, "{missed}");
        }
    }
    let before = world.pushes();
    for (nth, (end, body)) in [
        ("X: b\n\n", "hello world"),
        ("X: b\n\n", "foo\r\nContent-Length: 3\r\n\r\nhello"),
        ("X: b\n\n", "foo\r\nContent-Length: 300\r\n\r\nhello"),
        ("X: b\n\n", "\r\n\r\n"),
        ("X: b\n\r\n", "hello"),
        ("X: b\r\n\n", "hello"),
        ("X: b\r\n\r", "hello"),
        ("X: a\rl: 9\r\n\r\n", "hello"),
        ("X: a\rl: 0\r\nv: SIP/2.0/UDP h\rl: 0\r\n\r\n", "INVITE sip:x@y SIP/2.0\r\nl: 60000\r\n\r\n"),
        ("v: SIP/2.0/UDP h\r\r\n", "hello"),
        ("v: SIP/2.0/UDP h\r\r", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let id = token();
        let odd = format!(
            "INVITE {aor} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\nFrom: <sip:x@h>;tag={id}\r\n\
             To: <{aor}>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{own}>\r\nContent-Length: {}\r\n{end}{body}",
            body.len()
        );
        socket.send_to(odd.as_bytes(), server).await.unwrap();
        let mut answer = [0; 4_096];
        loop {
            let length = timeout(SOON, socket.recv(&mut answer)).await.expect("it is answered").unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            if answer.contains(&id) && !answer.starts_with("SIP/2.0 1") {
                assert!(answer.starts_with("SIP/2.0 400 Line Without CRLF"), "{end:?} {body:?}: {answer}");
                break;
            }
        }
        world.sipp_calls(Scenario::CallerCancels)?.finish(SOON).await?;
        assert_eq!(world.pushes(), before + nth as u64 + 1, "{end:?} {body:?}");
    }
    world.farewell(&instance).await
}

/// Kamailio takes the first length of what comes by a stream for its length, on a folded line too: none of a caller's stands in an answer before the true one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_folds_costs_no_other_its_call() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
    let (server, aor) = (world.registrar.address(Transport::Udp), world.registrar.aor(&world.registrar.user));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    for (nth, folded) in ["a\r\n l: 5000\r\n ", "a\r\n Content_Length: 70000\r\n "].into_iter().enumerate() {
        let id = token();
        let asks = format!(
            "OPTIONS {aor} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\nFrom: {folded}<sip:x@h>;tag={id}\r\n\
             To: <{aor}>\r\nCall-ID: {id}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:x@{own}>\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send_to(asks.as_bytes(), server).await.unwrap();
        let mut answer = [0; 4_096];
        let length = timeout(SOON, socket.recv(&mut answer)).await.expect("it is answered").unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("SIP/2.0 200 ") && answer.contains(&id), "{folded:?}: {answer}");
        world.sipp_calls(Scenario::CallerCancels)?.finish(SOON).await?;
        assert_eq!(world.pushes(), nth as u64 + 1, "{folded:?}");
    }
    world.farewell(&instance).await
}
