//! Connections whose peer proves nothing: how long they stay, and whom they make room for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tests::digest::token;
use tests::phone::Phone;
use tests::raw::{ELSEWHERE, Raw};
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::time::{sleep, timeout};

/// An OPTIONS that is right, for nobody.
fn options() -> String {
    format!(
        "OPTIONS sip:nobody@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bK{};rport\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:nobody@127.0.0.1>\r\nCall-ID: {}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        token(),
        token()
    )
}

async fn answered(raw: &mut Raw) -> bool {
    raw.send(options()).await && raw.await_text("SIP/2.0 ", SOON).await
}

/// However much they say.
#[tokio::test(flavor = "multi_thread")]
async fn who_proves_nothing_is_closed_and_a_phone_and_a_sip_server_stay() -> Outcome {
    let world = World::attacked_with(|setup| setup.timing = 0.05).await?;
    let server = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let phone = Phone::connect(world.device(world.bystander())).await.unwrap();
    assert_eq!(phone.register(SOON).await?.status(), Some(200));
    let mut known = Raw::tcp(server, world.relay.upstream(Transport::Tcp)).await.unwrap();
    assert!(answered(&mut known).await);
    for (listener, address, tls) in [
        ("edge", world.relay.edge_address(), true),
        ("upstream TLS", world.relay.upstream(Transport::Tls), true),
        ("upstream TCP", world.relay.upstream(Transport::Tcp), false),
    ] {
        let mut stranger = if tls {
            Raw::tls(ELSEWHERE, address, &world.authority, &[]).await.unwrap()
        } else {
            Raw::tcp(ELSEWHERE, address).await.unwrap()
        };
        assert!(answered(&mut stranger).await, "{listener}");
        let closed = async {
            while stranger.send(options()).await && !stranger.has_ended() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(3 * SOON, closed).await.unwrap_or_else(|_| panic!("{listener} keeps a stranger"));
    }
    assert!(answered(&mut known).await && !known.has_ended(), "the SIP server's own connection");
    assert_eq!(phone.register(SOON).await?.status(), Some(200), "by the same connection");
    world.unharmed().await
}

/// Forty addresses once held all connections of the listeners for SIP servers.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_by_the_thousand_leave_room_for_a_sip_server() -> Outcome {
    const STRANGERS: usize = 2_048;
    const ADDRESSES: u8 = 40;
    const OF_EACH: usize = 60;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let world = World::attacked().await?;
    let door: SocketAddr = world.relay.upstream(Transport::Tcp);
    let mut held = Vec::new();
    for of_each in 0..OF_EACH {
        for address in 1..=ADDRESSES {
            let from = IpAddr::from([127, 0, 9, address]);
            let mut raw = Raw::tcp(from, door).await.unwrap();
            raw.send(options()).await;
            held.push(raw);
        }
        // The last that came has been let in before the next ones come.
        let last = held.last_mut().filter(|_| of_each * usize::from(ADDRESSES) < STRANGERS / 2);
        if let Some(last) = last {
            assert!(last.await_text("SIP/2.0 ", SOON).await);
        }
    }
    let mut server = Raw::tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), door).await.unwrap();
    assert!(answered(&mut server).await, "the SIP server is let in");
    let over = held.len() - STRANGERS;
    let mut closed = 0;
    for raw in &mut held {
        closed += usize::from(raw.await_end(Duration::from_millis(1)).await.is_some());
    }
    assert!(closed >= over, "{closed} of {} were closed, {over} are over the limit", held.len());
    drop(held);
    world.unharmed_within(tests::world::attack::GROWTH * 2).await
}

/// Behind the address of a carrier. They are so many that they fill all that one address may have.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_all_of_an_addresss_connections_shuts_out_nobody_behind_it() -> Outcome {
    const OF_AN_ADDRESS: usize = 40;
    let world = World::attacked_with(|setup| {
        setup.further += &format!("\n[limits]\nconnections_per_source = {OF_AN_ADDRESS}\n");
    })
    .await?;
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let known = Phone::connect(world.device(world.bystander())).await.unwrap();
    assert_eq!(known.register(SOON).await?.status(), Some(200));
    let mut held = Vec::new();
    for n in 0..2 * OF_AN_ADDRESS {
        let mut raw = Raw::tls(here, world.relay.edge_address(), &world.authority, &[]).await.unwrap();
        assert!(answered(&mut raw).await, "{n}");
        held.push(raw);
    }
    let newcomer = Phone::connect(world.device(world.bystander())).await.unwrap();
    assert_eq!(newcomer.register(SOON).await?.status(), Some(200), "it is let in");
    for raw in &mut held[..OF_AN_ADDRESS] {
        assert!(raw.await_end(SOON).await.is_some(), "the oldest has given way");
    }
    assert_eq!(known.register(SOON).await?.status(), Some(200), "who is known stays");
    drop(held);
    world.unharmed().await
}

/// In a container that has few of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_takes_all_open_files_shuts_out_no_other_at_any_listener() -> Outcome {
    const OPEN_FILES: u64 = 400;
    let world = World::attacked().await?;
    let few = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    prlimit(Pid::from_raw(world.relay.pid().cast_signed()), Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    let flood = async |held: &mut Vec<Raw>, count| {
        for _ in 0..count {
            held.extend(Raw::tls(ELSEWHERE, world.relay.edge_address(), &world.authority, &[]).await);
        }
    };
    flood(&mut held, OPEN_FILES).await;
    let mut phones = Vec::new();
    for round in 0..20 {
        let phone = Phone::connect(world.device(world.bystander())).await.unwrap();
        assert_eq!(phone.register(SOON).await?.status(), Some(200), "{round}");
        phones.push(phone);
        assert_eq!(world.relay.api().read(world.bystander()).await?.status, 200, "{round}");
        flood(&mut held, 3).await;
    }
    assert!(world.relay.log().contains("descriptors-run-out") || world.relay.log().contains("of strangers first"));
    drop((held, phones));
    world.unharmed().await
}
