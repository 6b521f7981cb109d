//! Requests by Path for registrations that another node has stored, while DNS does not tell their SIP server's addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use tests::board::Missed;
use tests::dns::{Dns, Record};
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, World};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::keeping::stored;

type Outcome = tests::world::Outcome;

const DOMAIN: &str = "example.test";
/// The registrations of one SIP server that wait for DNS at once on a shard.
const SHARE: usize = 32;
const PHONES: usize = SHARE + 3;

/// The last status of each call by its number, once so many are refused, or soon: before DNS is given up.
async fn statuses(socket: &UdpSocket) -> std::io::Result<BTreeMap<usize, u16>> {
    let (mut space, mut all) = ([0; 65_536], BTreeMap::new());
    let until = Instant::now() + Duration::from_secs(2);
    while all.len() < PHONES || all.values().filter(|status| **status == 503).count() < PHONES - SHARE {
        let Ok(received) = timeout_at(until, socket.recv_from(&mut space)).await else { break };
        let text = String::from_utf8_lossy(&space[..received?.0]).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        let number = text.lines().find_map(|line| line.strip_prefix("Call-ID: ")?.parse::<usize>().ok());
        all.extend(number.zip(status));
    }
    Ok(all)
}

/// A caller that hangs up is answered at once, whoever is called and whether that may be judged yet.
#[tokio::test(flavor = "multi_thread")]
async fn the_cancel_of_a_call_that_waits_for_dns_is_answered_at_once_and_its_invite_once_dns_has_answered() -> Outcome {
    let (dns, redis) = (Dns::start(Vec::new()).await?, RedisServer::start());
    let world = World::between(
        |_| {},
        |setup| {
            setup.store = redis.url();
            setup.transports = vec![Transport::Udp];
            setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
        },
    )
    .await?;
    let port = world.registrar.address(Transport::Udp).port();
    dns.set(vec![
        Record::srv(&format!("_sip._udp.{DOMAIN}"), 1, 0, port, "host.example.test"),
        Record::address("host.example.test", "127.0.0.1"),
    ]);
    let mut phone = world.push_phone_of("alice", &Service::Fcm(FCM_TOKEN.to_owned()));
    if let Some(through) = &mut phone.settings.through {
        through.registrar = format!("sip:{DOMAIN}");
    }
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    dns.silence(true);
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let own = socket.local_addr()?;
    let aor = world.registrar.aor("alice");
    let to = world.registrar.contacts(&aor).pop().ok_or_else(|| Missed::new("a Contact", &aor))?;
    let request = |method: &str| {
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-cancelled\r\nMax-Forwards: 70\r\nRoute: {}\r\n\
             From: <sip:bob@{DOMAIN}>;tag=b\r\nTo: <{aor}>\r\nCall-ID: cancelled\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:bob@{own}>\r\nContent-Length: 0\r\n\r\n",
            to.uri, to.path[0]
        )
    };
    let heard = async |status: &str, method: &str| {
        let (mut space, until) = ([0; 65_536], Instant::now() + SOON);
        loop {
            let Ok(received) = timeout_at(until, socket.recv_from(&mut space)).await else {
                return Err(Missed::new("an answer", format!("{status} of {method}\n{}", other.log())));
            };
            let text = String::from_utf8_lossy(&space[..received?.0]).into_owned();
            if text.starts_with(&format!("SIP/2.0 {status}")) && text.contains(&format!("CSeq: 1 {method}\r\n")) {
                return Ok(());
            }
        }
    };
    let say =
        async |method: &str| socket.send_to(request(method).as_bytes(), ("127.0.0.1", other.setup().ports.udp)).await;
    say("INVITE").await?;
    heard("100", "INVITE").await?;
    for _ in 0..2 {
        say("CANCEL").await?;
        heard("200", "CANCEL").await?;
    }
    // The name server is silent until here: what was heard was heard before anything could be judged.
    dns.silence(false);
    heard("487", "INVITE").await?;
    assert_eq!(world.fcm.count(), 0, "nobody is woken");
    Ok(())
}

/// What DNS has told is soon over, and its servers may be away: a proof is counted by the addresses where requests go, and those are known.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_woken_waits_for_no_name_server() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = World::between(
        |_| {},
        |setup| {
            setup.transports = vec![Transport::Udp];
            setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
        },
    )
    .await?;
    let port = world.registrar.address(Transport::Udp).port();
    dns.set(vec![
        Record::srv(&format!("_sip._udp.{DOMAIN}"), 1, 0, port, "host.example.test").with_ttl(1),
        Record::address("host.example.test", "127.0.0.1").with_ttl(1),
    ]);
    let mut phone = world.push_phone_of("alice", &Service::Fcm(FCM_TOKEN.to_owned()));
    if let Some(through) = &mut phone.settings.through {
        through.registrar = format!("sip:{DOMAIN}");
    }
    phone.register_and_sleep(SOON).await?;
    // Answers are kept for 5 s at the least, and names in use are asked for again each 30 s.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let asked = dns.questions();
    phone.wake(SOON).await?;
    assert_eq!(dns.questions(), asked, "{}", world.relay.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_that_the_store_tells_of_wait_for_dns_within_the_share_of_their_sip_server() -> Outcome {
    let (dns, redis) = (Dns::start(Vec::new()).await?, RedisServer::start());
    let users = || (0..PHONES).map(|number| format!("user{number}"));
    let world = World::between(
        |server| server.users.extend(users().map(|user| (user, "secret".to_owned()))),
        |setup| {
            setup.store = redis.url();
            setup.transports = vec![Transport::Udp];
            setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
            setup.environment.push(("SIPWAKE_SHARDS".to_owned(), "1".to_owned()));
        },
    )
    .await?;
    let port = world.registrar.address(Transport::Udp).port();
    dns.set(vec![
        Record::srv(&format!("_sip._udp.{DOMAIN}"), 1, 0, port, "host.example.test"),
        Record::address("host.example.test", "127.0.0.1"),
    ]);
    for user in users() {
        let mut phone = world.push_phone_of(&user, &Service::Fcm(format!("{FCM_TOKEN}-{user}")));
        if let Some(through) = &mut phone.settings.through {
            through.registrar = format!("sip:{DOMAIN}");
        }
        phone.register_and_sleep(SOON).await?;
    }
    stored(&world, &redis, PHONES).await?;
    dns.silence(true);
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let own = socket.local_addr()?;
    for (number, user) in users().enumerate() {
        let aor = world.registrar.aor(&user);
        let to = world.registrar.contacts(&aor).pop().ok_or_else(|| Missed::new("a Contact", &aor))?;
        let text = format!(
            "INVITE {} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-{number}\r\nMax-Forwards: 70\r\nRoute: {}\r\n\
             From: <sip:bob@{DOMAIN}>;tag=b\r\nTo: <{aor}>\r\nCall-ID: {number}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:bob@{own}>\r\nContent-Length: 0\r\n\r\n",
            to.uri, to.path[0]
        );
        socket.send_to(text.as_bytes(), ("127.0.0.1", other.setup().ports.udp)).await?;
    }
    let heard = statuses(&socket).await?;
    let count = |status: u16| heard.values().filter(|heard| **heard == status).count();
    assert_eq!((count(100), count(503)), (SHARE, PHONES - SHARE), "{heard:?}\n{}", other.log());
    // DNS answers, and those that have waited are pushed.
    dns.silence(false);
    let pushed = async || (world.fcm.count() == SHARE as u64).then_some(());
    world.until("a push for each", pushed).await
}
