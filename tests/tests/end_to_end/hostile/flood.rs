//! Too much of what is allowed: calls, enablings, answers that are never acknowledged.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tests::api_client::Instance;
use tests::digest::token;
use tests::lines::sdp;
use tests::raw::{ELSEWHERE, datagrams, statuses};
use tests::registrar::Behaviour;
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::time::{Instant, timeout_at};

/// An INVITE with a Call-ID of its own.
fn invite(contact: &str, number: usize) -> String {
    let body = sdp(1);
    format!(
        "INVITE {contact} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5099;branch=z9hG4bK{};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:bob@example.test>;tag={number}\r\nTo: <sip:mallory@example.test>\r\nCall-ID: flood-{number}-{}\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:bob@127.0.0.1:5099>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        token(),
        token(),
        body.len()
    )
}

/// Sends `count` INVITEs over UDP and acknowledges no answer; the numbers of those that got a final one.
async fn bomb(world: &World, from: IpAddr, lent: &Instance, count: usize) -> (BTreeSet<usize>, BTreeSet<u16>) {
    let contact = world.registrar.contacts(&lent.aor)[0].uri.clone();
    let socket = datagrams(from).await.unwrap();
    let to = world.relay.upstream(Transport::Udp);
    let (mut answered, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    let mut space = vec![0; 65_536];
    let mut take = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = statuses(&text).first().copied().unwrap_or_default();
        let number = text.split("flood-").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
        if let Some(number) = number.filter(|_: &usize| status >= 200) {
            answered.insert(number);
            kinds.insert(status);
        }
        answered.len()
    };
    for number in 0..count {
        socket.send_to(invite(&contact, number).as_bytes(), to).await.unwrap();
        // So many at a time that neither side's socket overflows.
        if number % 20 == 19 {
            let deadline = Instant::now() + Duration::from_secs(2);
            while let Ok(Ok((length, _))) = timeout_at(deadline, socket.recv_from(&mut space)).await {
                if take(&space[..length]) + 40 > number {
                    break;
                }
            }
        }
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    while let Ok(Ok((length, _))) = timeout_at(deadline, socket.recv_from(&mut space)).await {
        if take(&space[..length]) + 10 >= count {
            break;
        }
    }
    (answered, kinds)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_push_a_device_a_bounded_number_of_times() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let (answered, kinds) = bomb(&world, [127, 0, 0, 1].into(), &lent, 1_000).await;
    assert!(answered.len() >= 900, "{} of 1,000 were answered", answered.len());
    assert!(kinds.iter().all(|status| [480, 486].contains(status)), "{kinds:?}");
    let bombed = world.apns.pushes().iter().filter(|push| push.token == lent.push_token).count();
    assert!((1..=30).contains(&bombed), "{bombed} pushes");
    assert_eq!(world.apns.violations(), Vec::<String>::new());
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_from_strangers_by_the_thousand_leave_no_trace() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    let (answered, kinds) = bomb(&world, ELSEWHERE, &lent, 5_000).await;
    assert!(answered.len() > 4_000, "{} of 5,000 were answered", answered.len());
    assert_eq!(kinds, BTreeSet::from([403]));
    assert!(world.apns.pushes().iter().all(|push| push.token != lent.push_token));
    world.unharmed_within(32 << 20).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_hang_up_at_once_ring_nobody_and_push_once_each_at_most() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    for _ in 0..60 {
        let caller = world.call_for(&lent)?;
        // Over its budget a call is refused at once, and there is nothing to cancel.
        if caller.leg().any_response(&caller.first(), SOON).await? < 200 {
            caller.cancel().await?;
        }
        let status = caller.final_response(SOON).await?.status();
        assert!(matches!(status, Some(487 | 480 | 486)), "{status:?}");
    }
    let phone = world.wake(&lent).await?;
    phone.ping(SOON).await?;
    assert_eq!(phone.invited(), 0, "a call that is over rang");
    let pushes: Vec<_> = world.apns.pushes().into_iter().filter(|push| push.token == lent.push_token).collect();
    let calls: BTreeSet<_> = pushes.iter().map(|push| push.payload["sipwake"]["call"].to_string()).collect();
    assert_eq!(calls.len(), pushes.len(), "two pushes for one call");
    assert!(pushes.len() <= 30, "{} pushes for 60 calls", pushes.len());
    assert_eq!(world.apns.violations(), Vec::<String>::new());
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn enabling_again_and_again_leaves_one_instance_and_one_contact() -> Outcome {
    let world = World::attacked().await?;
    let request = world.enable_request_anew("mallory");
    let mut last = world.enable_as(&request).await?;
    for _ in 0..30 {
        last = world.enable_as(&request).await?;
    }
    world.registrar.await_contacts(&last.aor, 1, SOON).await?;
    let deadline = Instant::now() + SOON;
    while world.relay.metric("sipwake_instances{state=\"registered\"}").await != Some(2.0) {
        assert!(Instant::now() < deadline, "{:?}", world.relay.metric("sipwake_instances{state=\"registered\"}").await);
    }
    let caller = world.call_for(&last)?;
    world.push_for(&last).await?;
    caller.cancel().await?;
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_all_name_one_victim_send_it_little_and_stop_when_refused() -> Outcome {
    let world = World::attacked().await?;
    let aor = world.registrar.aor("trent");
    let before = world.registrar.register_count();
    for behaviour in [Behaviour::Refuse(403), Behaviour::AskForever, Behaviour::StaleForever] {
        world.registrar.behave(&aor, behaviour.clone());
        for _ in 0..20 {
            let answer = world.api.enable(&world.enable_request_anew("trent")).await?;
            assert!(matches!(answer.status, 202 | 422 | 429), "{behaviour:?}: {}", answer.text());
        }
    }
    let mut wrong = world.enable_request_anew("peggy");
    wrong["account"]["password"] = json!("a guess");
    for _ in 0..20 {
        assert!(matches!(world.api.enable(&wrong).await?.status, 422 | 429));
    }
    // Sixty that were challenged to no end, at most four REGISTERs each, and nothing after a refusal.
    let sent = world.registrar.register_count() - before;
    assert!(sent <= 80 * 5, "{sent} REGISTERs for 80 enablings");
    let connections: BTreeSet<u64> = world.registrar.registers(&aor).iter().map(|seen| seen.flow.id()).collect();
    assert!(connections.len() <= 60, "{} connections for 60 enablings", connections.len());
    let settled = world.registrar.registers(&world.registrar.aor("peggy")).len();
    world.unharmed().await?;
    assert_eq!(world.registrar.registers(&world.registrar.aor("peggy")).len(), settled, "refused is refused");
    Ok(())
}
