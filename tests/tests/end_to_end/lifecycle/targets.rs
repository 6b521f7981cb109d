//! Where the relay sends an account's requests: by NAPTR, SRV and addresses, past what fails, and back again (RFC 3263).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::dns::{Dns, Record};
use tests::gate::Gate;
use tests::ports;
use tests::registrar::{self, Behaviour, Registrar};
use tests::wire::Transport;
use tests::world::{SOON, TOKEN, World};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use super::Outcome;

const DOMAIN: &str = "example.test";

/// A world whose relay asks this name server, and tries again after a second.
async fn world(dns: &Dns, transports: &[Transport]) -> Result<World, Missed> {
    let lines = format!("name_servers = [\"{}\"]\nfailback_interval = \"1s\"\n", dns.address());
    World::with(|setup| {
        setup.transports = transports.to_vec();
        setup.upstream = lines;
    })
    .await
}

/// Alice's account by its domain alone.
fn by_domain() -> Value {
    json!({
        "account": {"aor": format!("sip:alice@{DOMAIN}"), "auth_username": "alice", "password": "wonderland"},
        "device": {"call_push": {"provider": "apns", "token": TOKEN}},
    })
}

/// Another server of the same domain, with a certificate for these names.
async fn another(world: &World, names: &[&str]) -> Result<Registrar, Missed> {
    let certified = Some(names.iter().map(|name| (*name).to_owned()).collect());
    let authority = Some(world.authority.clone());
    Ok(Registrar::start(registrar::Settings { authority, certified, ..registrar::Settings::default() }).await?)
}

fn srv(service: &str, priority: u16, server: SocketAddr) -> Record {
    Record::srv(service, priority, 0, server.port(), "host.example.test")
}

fn host() -> Record {
    Record::address("host.example.test", "127.0.0.1")
}

#[tokio::test]
async fn the_next_server_serves_while_the_best_is_away_and_the_best_again_when_it_is_back() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = world(&dns, &[Transport::Tls]).await?;
    let second = another(&world, &[DOMAIN]).await?;
    let mut best = Gate::closed(world.registrar.address(Transport::Tls));
    let service = "_sips._tcp.provider.test";
    dns.set(vec![
        Record::naptr(DOMAIN, 10, 10, "SIPS+D2T", service),
        srv(service, 1, best.address()),
        srv(service, 2, second.address(Transport::Tls)),
        host(),
    ]);
    let aor = world.aor();
    let instance = world.enable_as(&by_domain()).await?;
    assert_eq!((second.contacts(&aor).len(), world.registrar.contacts(&aor).len()), (1, 0));
    // One call is answered and one waits for its phone when the best server comes back.
    let phone = world.wake(&instance).await?;
    let talking = second.call(&aor, &CallOptions::default())?;
    let call = phone.next_invite(SOON).await?;
    world.answer(&talking, &call).await?;
    let waiting = second.call(&aor, &CallOptions::default())?;
    let ringing = phone.next_invite(SOON).await?;
    world.ring(&waiting, &ringing).await?;
    best.open()?;
    world.registrar.await_contacts(&aor, 1, SOON * 3).await?;
    // Nothing of them was lost by the move.
    world.answer(&waiting, &ringing).await?;
    world.phone_hangs_up(&waiting, &ringing).await?;
    assert_eq!(talking.leg().reinvite(SOON).await?.status(), Some(200));
    world.phone_hangs_up(&talking, &call).await?;
    phone.unregister(SOON).await?;
    world.watch_caller(&talking);
    world.watch_caller(&waiting);
    world.content()?;
    world.whole_call(&instance).await?;
    // It goes away again: the second one has the account at once, and rings the phone.
    second.forget();
    best.close();
    second.await_contacts(&aor, 1, SOON * 3).await?;
    let caller = second.call(&aor, &CallOptions::default())?;
    world.push().await?;
    world.talks(&caller, &instance).await?;
    assert_eq!(second.violations(), Vec::<String>::new());
    world.watch_caller(&caller);
    world.content()
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_or_says_503_is_passed_over() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = world(&dns, &[Transport::Tls]).await?;
    // RFC 5922: a wildcard is nobody's name, and the name that SRV gave is not the account's.
    let wildcard = another(&world, &["*.test", "host.example.test"]).await?;
    let busy = another(&world, &[DOMAIN]).await?;
    busy.behave(&world.aor(), Behaviour::RetryAfter(600));
    let service = format!("_sips._tcp.{DOMAIN}");
    dns.set(vec![
        srv(&service, 1, wildcard.address(Transport::Tls)),
        srv(&service, 2, busy.address(Transport::Tls)),
        srv(&service, 3, world.registrar.address(Transport::Tls)),
        host(),
    ]);
    // It may be answered before the third has been asked.
    let instance = world.api.enabled(&by_domain()).await?;
    world.registrar.await_contacts(&world.aor(), 1, SOON * 3).await?;
    assert_eq!(wildcard.register_count(), 0, "nothing is said to whom is not trusted");
    assert!(busy.registers(&world.aor()).iter().filter(|it| it.proven).count() <= 2, "it is not asked again and again");
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_server_that_is_silent_on_udp_is_left_for_the_next_one() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = world(&dns, &[Transport::Udp]).await?;
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let service = format!("_sip._udp.{DOMAIN}");
    dns.set(vec![
        srv(&service, 1, silent.local_addr()?),
        srv(&service, 2, world.registrar.address(Transport::Udp)),
        host(),
    ]);
    let instance = world.api.enabled(&by_domain()).await?;
    // 32 s of silence (RFC 3261 §17.1.2.2, Timer F), and then at once.
    world.registrar.await_contacts(&world.aor(), 1, SOON * 9).await?;
    world.whole_call(&instance).await?;
    // The silent one is asked whether it is back, and until it answers nothing changes.
    let asked = async {
        let mut space = [0; 4_096];
        loop {
            let (length, _) = silent.recv_from(&mut space).await?;
            if space[..length].starts_with(b"OPTIONS ") {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    tokio::time::timeout(SOON * 3, asked).await.expect("it is asked")?;
    world.whole_call(&instance).await
}

/// Relay and resolver start again together: the SIP server, whose Contacts stand, is told nothing that is final.
#[tokio::test]
async fn a_call_waits_while_dns_has_not_told_the_addresses_of_its_sip_server() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let (mut world, _redis) = World::on_redis(|setup| {
        setup.transports = vec![Transport::Udp];
        setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
    })
    .await?;
    let service = format!("_sip._udp.{DOMAIN}");
    dns.set(vec![srv(&service, 1, world.registrar.address(Transport::Udp)), host()]);
    let instance = world.enable_as(&by_domain()).await?;
    world.relay.kill_9().await?;
    dns.silence(true);
    world.relay.restart().await?;
    // Nobody waits for the SIP server of what was taken over any more.
    world.await_metric("sipwake_registrations_total{outcome=\"unreachable\"}", 1.0).await?;
    // For too long: whoever calls may try elsewhere.
    let caller = world.registrar.call(&world.aor(), &CallOptions::default())?;
    caller.expect(503, SOON).await?;
    let caller = world.registrar.call(&world.aor(), &CallOptions::default())?;
    caller.expect(100, SOON).await?;
    dns.silence(false);
    world.push().await?;
    world.talks(&caller, &instance).await?;
    world.watch_caller(&caller);
    world.content()
}

/// A proxy of another address than its server's, for datagrams.
async fn proxy(server: SocketAddr) -> std::io::Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
    let socket = UdpSocket::bind("127.0.0.2:0").await?;
    let address = socket.local_addr()?;
    let carrying = tokio::spawn(async move {
        let (mut space, mut client) = ([0; 65_536], None);
        loop {
            let (length, from) = socket.recv_from(&mut space).await?;
            if from != server {
                client = Some(from);
            }
            let to = if from == server { client } else { Some(server) };
            if let Some(to) = to {
                socket.send_to(&space[..length], to).await?;
            }
        }
    });
    Ok((address, carrying))
}

/// Sends an INVITE to a Contact; when each of these answers has come.
async fn invite(socket: &UdpSocket, contact: &str, number: u32, statuses: &[&str]) -> Result<Vec<Duration>, Missed> {
    let begun = Instant::now();
    let own = socket.local_addr()?;
    let text = format!(
        "INVITE {contact} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK-{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:bob@{DOMAIN}>;tag=b\r\nTo: <sip:alice@{DOMAIN}>\r\nCall-ID: {number}\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:bob@{own}>\r\nContent-Length: 0\r\n\r\n"
    );
    let relay: SocketAddr =
        contact.rsplit('@').next().and_then(|at| at.split(';').next()?.parse().ok()).expect("host and port");
    socket.send_to(text.as_bytes(), relay).await?;
    let (mut space, mut times) = ([0; 65_536], Vec::new());
    for status in statuses {
        loop {
            let received = tokio::time::timeout(SOON * 3, socket.recv_from(&mut space)).await;
            let (length, _) = received.map_err(|_| Missed::new(format!("{status} to an INVITE"), "silence"))??;
            let answer = String::from_utf8_lossy(&space[..length]).into_owned();
            if answer.starts_with(&format!("SIP/2.0 {status}")) {
                times.push(begun.elapsed());
                break;
            }
            if !answer.starts_with("SIP/2.0 100") {
                return Err(Missed::new(format!("{status} to an INVITE"), answer));
            }
        }
    }
    Ok(times)
}

/// Where one name of several is known without DNS, nobody is told for good that he is none of the others.
#[tokio::test]
async fn a_call_of_a_server_that_dns_has_not_told_waits_although_the_proxy_is_known() -> Outcome {
    let dns = Dns::start(vec![Record::address(DOMAIN, "127.0.0.1")]).await?;
    let (mut world, _redis) = World::on_redis(|setup| {
        setup.transports = vec![Transport::Udp];
        setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
    })
    .await?;
    let (proxy, _carrying) = proxy(world.registrar.address(Transport::Udp)).await?;
    let mut request = by_domain();
    request["account"]["outbound_proxy"] = json!(format!("sip:{proxy}"));
    world.enable_as(&request).await?;
    let contact = world.registrar.contacts(&world.aor()).pop().expect("it is registered").uri;
    world.relay.kill_9().await?;
    dns.silence(true);
    world.relay.restart().await?;
    // The proxy's address is known, and a flow leads there.
    world.await_metric("sipwake_registrations_total{outcome=\"registered\"}", 1.0).await?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    // For too long: the proxy alone is its SIP server, as far as is known.
    let times = invite(&socket, &contact, 1, &["100", "403"]).await?;
    assert!(times[0] < Duration::from_secs(2), "its sender is to wait: {times:?}");
    assert!(times[1] < Duration::from_secs(9), "{times:?}");
    invite(&socket, &contact, 2, &["100"]).await?;
    dns.silence(false);
    world.push().await?;
    world.content()
}

/// Whatever the TTL, names are not resolved again before half a minute is over, unless somebody comes who may be the SIP server.
#[tokio::test]
async fn a_server_that_has_moved_in_dns_is_heard_once_the_ttl_is_over_and_strangers_have_dns_asked_no_more_often()
-> Outcome {
    let at = |address: &str| vec![Record::address(DOMAIN, address).with_ttl(1)];
    let dns = Dns::start(at("127.0.0.1")).await?;
    let world = world(&dns, &[Transport::Udp]).await?;
    let mut request = by_domain();
    request["account"]["outbound_proxy"] = json!(format!("sip:{}", world.registrar.address(Transport::Udp)));
    world.enable_as(&request).await?;
    let contact = world.registrar.contacts(&world.aor()).pop().expect("it is registered").uri;
    let (moved, stranger) = (UdpSocket::bind("127.0.0.9:0").await?, UdpSocket::bind("127.0.0.8:0").await?);
    invite(&moved, &contact, 1, &["403"]).await?;
    dns.set(at("127.0.0.9"));
    let begun = Instant::now();
    let mut number = 2;
    while invite(&moved, &contact, number, &["100"]).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it has moved");
        tokio::time::sleep(Duration::from_millis(200)).await;
        number += 1;
    }
    world.push().await?;
    let (before, begun) = (dns.asked(DOMAIN), Instant::now());
    for number in 1_000..1_100 {
        invite(&stranger, &contact, number, &["403"]).await?;
    }
    // Two questions with each remembered answer that ends, of 5 s at least.
    let most = 2 * (1 + begun.elapsed().as_secs() as usize / 5);
    assert!(dns.asked(DOMAIN) - before <= most, "{} of {most}", dns.asked(DOMAIN) - before);
    world.content()
}

#[tokio::test]
async fn an_account_is_served_over_ipv6_by_number_and_by_name() -> Outcome {
    let dns = Dns::start(vec![Record::address(DOMAIN, "::1")]).await?;
    let world = world(&dns, &[Transport::Tls]).await?;
    let mut v6 = Gate::closed_v6(world.registrar.address(Transport::Tls));
    v6.open()?;
    let mut request = world.enable_request(TOKEN);
    request["account"]["registrar"] = json!(format!("sip:[::1]:{};transport=tls", v6.address().port()));
    let instance = world.enable_as(&request).await?;
    world.whole_call(&instance).await?;
    world.disable(&instance).await?;
    // By AAAA, as an outbound proxy and as a `sips:` account; the certificate is for the name.
    let mut request = by_domain();
    request["account"]["outbound_proxy"] = json!(format!("sip:{DOMAIN}:{};transport=tls", v6.address().port()));
    request["account"]["registrar"] = json!(format!("sip:{DOMAIN}"));
    let instance = world.enable_as(&request).await?;
    world.whole_call(&instance).await?;
    world.disable(&instance).await?;
    // Nobody there at a port that is free: told as what it is.
    let mut request = by_domain();
    request["account"]["registrar"] = json!(format!("sip:[::1]:{};transport=tls", ports::free()));
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["state"]), (202, &json!("retrying")));
    Ok(())
}

#[tokio::test]
async fn a_device_reaches_an_edge_that_listens_on_ipv6_by_tls_and_by_websocket() -> Outcome {
    let (mut world, instance) = World::lent_with(|setup| setup.edge_ip = "[::1]".to_owned()).await?;
    assert!(instance.edge.starts_with("sip:[::1]:"), "{}", instance.edge);
    for edge in [Transport::Tls, Transport::Wss] {
        world.edge = edge;
        world.whole_call(&instance).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_connections_and_ends_them_is_left_for_the_next_one() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = world(&dns, &[Transport::Tcp]).await?;
    // A balancer without a server behind it.
    let closing = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = closing.local_addr()?;
    let _balancer = tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let service = format!("_sip._tcp.{DOMAIN}");
    dns.set(vec![srv(&service, 1, address), srv(&service, 2, world.registrar.address(Transport::Tcp)), host()]);
    let instance = world.enable_as(&by_domain()).await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn an_address_that_the_socket_for_datagrams_cannot_send_to_is_passed_over() -> Outcome {
    let dns = Dns::start(Vec::new()).await?;
    let world = world(&dns, &[Transport::Udp]).await?;
    let service = format!("_sip._udp.{DOMAIN}");
    let address = world.registrar.address(Transport::Udp);
    dns.set(vec![
        Record::srv(&service, 1, 0, address.port(), "six.example.test"),
        Record::address("six.example.test", "::1"),
        srv(&service, 2, address),
        host(),
    ]);
    // At once: the silence of an address would be waited for for 32 s.
    let instance = world.enable_as(&by_domain()).await?;
    world.whole_call(&instance).await
}
