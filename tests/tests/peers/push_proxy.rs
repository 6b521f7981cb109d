//! The same with a real Kamailio that keeps Path, and a real SIPp as the caller.

use serde_json::Value;
use tests::apns::Apns;
use tests::authority::Authority;
use tests::baresip::{self, Baresip};
use tests::board::Missed;
use tests::digest::{Algorithm, token};
use tests::dns::{Dns, Record};
use tests::fcm::Fcm;
use tests::kamailio::{self, Kamailio, Reach};
use tests::linphone::Linphone;
use tests::push_phone::{PushPhone, Service, sleep};
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{App, Ports, Setup};
use tests::scene::FCM_TOKEN;
use tests::sipp::{Scenario, Sipp};
use tests::wire::Transport;

const WOKEN: &str = "sipwake_http_requests_total{route=\"/v1/wake\",status=\"200\"}";
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

struct World {
    kamailio: Kamailio,
    fcm: Fcm,
    _apns: Apns,
    relay: RelayProcess,
    redis: RedisServer,
    phone: PushPhone,
    user: String,
    password: String,
    /// Another user of Kamailio, with his password.
    other: (String, String),
    authority: Authority,
    _dns: Dns,
    _permit: tokio::sync::SemaphorePermit<'static>,
}

/// How Kamailio treats calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Plain,
    /// It holds them until the relay has woken a device.
    HoldsCalls,
    /// Who calls from its domain must prove who he is; the relay finds it by its domain, and the edge is known by a name.
    AsksCallers,
}

impl World {
    async fn over(transport: Transport) -> Result<Self, Missed> {
        Self::of(transport, Manners::Plain).await
    }

    async fn of(transport: Transport, manners: Manners) -> Result<Self, Missed> {
        let permit = super::world::turn().await;
        let authority = Authority::new();
        let (user, password) = (format!("alice-{}", token()), format!("pass-{}", token()));
        let other = (format!("bob-{}", token()), format!("pass-{}", token()));
        let (apns, fcm) = tokio::join!(Apns::start(&authority), Fcm::start(&authority));
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        let wake = (manners == Manners::HoldsCalls).then(|| kamailio::Wake {
            api: ([127, 0, 0, 1], setup.ports.api).into(),
            key: setup.sip_server("kamailio", &["example.test"]),
        });
        let asks_callers = manners == Manners::AsksCallers;
        let settings = kamailio::Settings {
            users: vec![(user.clone(), password.clone()), other.clone()],
            asks_callers,
            algorithm: Algorithm::Md5,
            reach: Reach::Path,
            wake,
            ..kamailio::Settings::default()
        };
        let (kamailio, redis) = (Kamailio::start(settings, &authority).await?, RedisServer::start());
        let (service, port) = match transport {
            Transport::Udp => ("_sip._udp", kamailio.address(transport).port()),
            Transport::Tcp => ("_sip._tcp", kamailio.address(transport).port()),
            Transport::Tls | Transport::Wss => ("_sips._tcp", kamailio.address(transport).port()),
        };
        let dns = Dns::start(vec![
            Record::srv(&format!("{service}.{}", kamailio.domain()), 0, 0, port, "host.example.test"),
            Record::address("host.example.test", "127.0.0.1"),
        ]);
        let dns = dns.await?;
        setup.transports = vec![transport];
        setup.store = redis.url();
        setup.keyring = Some(authority.directory().join("keyring"));
        if asks_callers {
            setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
            // Linphone's TLS knows certificates for names alone, not for addresses.
            let public = format!("localhost:{}", setup.ports.edge);
            setup.environment.push(("SIPWAKE_EDGE__PUBLIC".to_owned(), public));
        }
        let relay = RelayProcess::start(setup).await?;
        let (edge, registrar, aor) = (relay.edge_uri(), kamailio.uri(transport), kamailio.aor(&user));
        let phone = PushPhone::new(&edge, &registrar, &aor, (&user, &password), &authority)
            .woken_by(&Service::Fcm(FCM_TOKEN.to_owned()));
        let _apns = apns;
        Ok(Self {
            kamailio,
            fcm,
            _apns,
            relay,
            redis,
            phone,
            user,
            password,
            other,
            authority,
            _dns: dns,
            _permit: permit,
        })
    }

    fn call(&self, scenario: Scenario) -> Result<Sipp, Missed> {
        let server = self.kamailio.address(Transport::Udp);
        Sipp::call(scenario, server, &self.user, self.kamailio.domain(), SOON * 2)
    }

    async fn push(&self) -> Result<Value, Missed> {
        let push = self.fcm.next_push(SOON).await;
        push.map(|push| push.payload).ok_or_else(|| Missed::new("a push", format!("none:\n{}", self.relay.log())))
    }

    async fn asleep(&self) -> Result<(), Missed> {
        self.phone.register_and_sleep(SOON).await?;
        let located = self.kamailio.await_location(&self.user, 1, SOON).await?;
        assert!(located[0].uri.contains("pn-prid"), "{}", located[0].uri);
        self.stored().await
    }

    async fn await_asleep(&self) -> Result<(), Missed> {
        let looking = async {
            while self.relay.metric("sipwake_edge_flows").await != Some(0.0) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.map_err(|_| Missed::new("a device that has gone", "it is there"))
    }

    async fn stored(&self) -> Result<(), Missed> {
        let looking = async {
            while !self.redis.keys().iter().any(|key| key.starts_with("sipwake:i:")) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, looking).await.map_err(|_| Missed::new("a stored record", "none"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_keeps_the_path_over_udp_and_the_caller_ends_the_call() -> Result<(), Missed> {
    ring(Transport::Udp, Scenario::CallerHangsUp).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_keeps_the_path_over_tcp_and_the_phone_ends_the_call() -> Result<(), Missed> {
    ring(Transport::Tcp, Scenario::CalleeHangsUp).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_keeps_the_path_over_tls_and_the_phone_ends_the_call() -> Result<(), Missed> {
    ring(Transport::Tls, Scenario::CalleeHangsUp).await
}

async fn ring(transport: Transport, scenario: Scenario) -> Result<(), Missed> {
    let world = World::over(transport).await?;
    world.asleep().await?;
    let caller = world.call(scenario)?;
    assert_eq!(world.push().await?["event"], "call");
    let (device, learned) = world.phone.wake(SOON).await?;
    assert_eq!(learned.services, ["fcm"]);
    let call = device.next_invite(SOON).await?;
    call.ring();
    call.answer();
    call.expect_ack(SOON).await?;
    match scenario {
        Scenario::CalleeHangsUp => call.hang_up(SOON).await?,
        _ => drop(call.expect_bye(SOON).await?),
    }
    caller.finish(SOON).await?;
    assert_eq!((device.violations(), world.fcm.violations()), (vec![], vec![]));
    assert_eq!(world.fcm.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_at_kamailio_leaves_no_phone_ringing() -> Result<(), Missed> {
    let world = World::over(Transport::Udp).await?;
    world.asleep().await?;
    let caller = world.call(Scenario::CallerCancels)?;
    assert_eq!(world.push().await?["event"], "call");
    caller.finish(SOON).await?;
    assert_eq!(world.push().await?["event"], "call-ended");
    let (device, _) = world.phone.wake(SOON).await?;
    device.ping(SOON).await?;
    assert_eq!(device.invited(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_killed_is_found_again_by_kamailios_path() -> Result<(), Missed> {
    let mut world = World::over(Transport::Tls).await?;
    world.asleep().await?;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.relay.await_log("instances are registered again", SOON).await?;
    let looking = async {
        while world.relay.metric("sipwake_upstream_flows").await != Some(1.0) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, looking).await.map_err(|_| Missed::new("a flow to Kamailio", "none"))?;
    let caller = world.call(Scenario::CalleeHangsUp)?;
    assert_eq!(world.push().await?["event"], "call");
    let (device, _) = world.phone.wake(SOON).await?;
    let call = device.next_invite(SOON).await?;
    call.ring();
    call.answer();
    call.expect_ack(SOON).await?;
    call.hang_up(SOON).await?;
    caller.finish(SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn linphone_calls_baresip_and_baresip_linphone_with_the_edge_as_its_one_proxy_over_udp() -> Result<(), Missed> {
    both_ways(Transport::Udp).await
}

#[tokio::test(flavor = "multi_thread")]
async fn linphone_calls_baresip_and_baresip_linphone_with_the_edge_as_its_one_proxy_over_tls() -> Result<(), Missed> {
    both_ways(Transport::Tls).await
}

/// A stock softphone whose only proxy is the edge calls out and is called, through a Kamailio that asks every caller for his
/// credentials. The other side is at Kamailio itself.
async fn both_ways(transport: Transport) -> Result<(), Missed> {
    let world = World::of(transport, Manners::AsksCallers).await?;
    let domain = world.kamailio.domain();
    let (bob, password) = &world.other;
    let account = baresip::Account {
        aor: world.kamailio.aor(bob),
        // With it baresip names itself by a GRUU, which this Kamailio gives and does not resolve in a dialog.
        outbound: false,
        ..baresip::Account::new(&world.kamailio.uri(Transport::Udp), bob, password)
    };
    let baresip = Baresip::start(&account, &world.authority).await?;
    baresip.await_registered(SOON).await?;
    let edge = format!("sip:localhost:{};transport=tls", world.relay.setup().ports.edge);
    let account = baresip::Account {
        aor: world.kamailio.aor(&world.user),
        ..baresip::Account::new(&edge, &world.user, &world.password)
    };
    let pn = Service::Fcm(FCM_TOKEN.to_owned()).parameters();
    let linphone = Linphone::start_woken(pn.trim_start_matches(';'), &account, domain, &world.authority)?;
    linphone.await_registered(SOON).await?;
    let told = |missed: Missed| {
        Missed::new(missed.awaited, format!("{}\n{}\n{}", missed.seen, linphone.output(), world.relay.log()))
    };

    linphone.call(&world.kamailio.aor(bob))?;
    baresip.await_rung(1, SOON).await.map_err(told)?;
    baresip.accept().await?;
    baresip.await_event("CALL_ESTABLISHED", SOON).await?;
    linphone.await_established(SOON).await.map_err(told)?;
    linphone.hang_up()?;
    baresip.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    linphone.await_ended(SOON).await?;

    baresip.command("dial", &world.kamailio.aor(&world.user)).await?;
    linphone.await_incoming(SOON).await.map_err(told)?;
    linphone.accept()?;
    baresip.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
    baresip.hang_up().await?;
    linphone.await_ended(SOON).await.map_err(told)?;
    assert_eq!(world.fcm.count(), 0, "it was there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_holds_a_call_has_a_phone_that_lent_nothing_woken_and_sends_it_without_a_second_push()
-> Result<(), Missed> {
    for transport in [Transport::Tls, Transport::Udp] {
        let world = World::of(transport, Manners::HoldsCalls).await?;
        world.asleep().await?;
        for calls in 1..=2 {
            let caller = world.call(Scenario::CallerHangsUp)?;
            assert_eq!(world.push().await?["event"], "call");
            let (device, _) = world.phone.wake(SOON).await?;
            let call = device.next_invite(SOON).await?;
            call.ring();
            call.answer();
            call.expect_ack(SOON).await?;
            call.expect_bye(SOON).await?;
            caller.finish(SOON).await?;
            assert_eq!((device.violations(), world.fcm.count()), (vec![], calls), "one push for one call");
            sleep(device);
            world.await_asleep().await?;
        }
        assert!(world.kamailio.output().contains("sipwake answered 200"), "{}", world.kamailio.output());
        assert_eq!(world.relay.metric(WOKEN).await, Some(2.0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_asks_one_node_to_wake_a_phone_that_lent_nothing_and_sends_the_call_by_the_path_of_another()
-> Result<(), Missed> {
    let mut world = World::of(Transport::Tls, Manners::HoldsCalls).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    world.phone.settings.server = other.edge_uri();
    world.asleep().await?;
    let caller = world.call(Scenario::CallerHangsUp)?;
    let push = world.push().await?;
    assert_eq!((&push["event"], &push["edge"]), (&"call".into(), &other.edge_address().to_string().into()));
    let (device, _) = world.phone.wake(SOON).await?;
    let call = device.next_invite(SOON).await?;
    call.ring();
    call.answer();
    call.expect_ack(SOON).await?;
    call.expect_bye(SOON).await?;
    caller.finish(SOON).await?;
    assert_eq!((device.violations(), world.fcm.count()), (vec![], 1), "one push for one call");
    assert_eq!(
        (world.relay.metric(WOKEN).await, other.metric(WOKEN).await),
        (Some(1.0), Some(1.0)),
        "asked, and carried"
    );
    Ok(())
}
