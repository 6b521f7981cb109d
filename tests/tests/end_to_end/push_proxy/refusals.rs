//! What may not pass, and from whom no call is believed.

use std::net::TcpListener;

use sip::message::Name;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::phone::Phone;
use tests::push_phone::{Service, learned, sleep};
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World};

use super::calls::android;

type Outcome = tests::world::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_or_an_app_that_is_not_served_is_555() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let project = tests::fcm::PROJECT;
    for pn in [
        ";pn-provider=webpush;pn-param=x;pn-prid=y".to_owned(),
        ";pn-provider=fcm;pn-param=another-project;pn-prid=y".to_owned(),
        ";pn-provider=fcm;pn-prid=y".to_owned(),
        format!(";pn-provider=apns;pn-param=AAAAAAAAAA.com.example.phone;pn-prid={TOKEN}"),
        format!(";pn-provider=apns;pn-param=DEF1234567.com.example.other.voip;pn-prid={TOKEN}"),
        ";pn-provider=webpush".to_owned(),
    ] {
        let (_, answer) = phone.clone().contact(&pn, "").try_to_register(SOON).await?;
        assert_eq!(answer.status(), Some(555), "{pn}");
        assert!(answer.text(Name::Warning).is_some_and(|why| why.contains("pn-param")), "it says why: {pn}");
    }
    for (prid, status, why) in [("short".to_owned(), 400, "no token"), (format!("{TOKEN}:remote"), 555, "remote")] {
        let pn = format!(";pn-provider=apns;pn-param=DEF1234567.com.example.phone;pn-prid={prid}");
        let (_, answer) = phone.clone().contact(&pn, "").try_to_register(SOON).await?;
        assert_eq!(answer.status(), Some(status), "{pn}");
        assert!(answer.text(Name::Warning).is_some_and(|text| text.contains(why)), "it says why: {pn}");
    }
    assert_eq!(world.registrar.register_count(), 0, "none of it left the relay");
    let (_, answer) = phone.clone().contact(";pn-provider", "").try_to_register(SOON).await?;
    assert_eq!((answer.status(), learned(&answer).services.join(" ")), (Some(200), "apns apns.dev fcm".to_owned()));
    let served = format!(";pn-provider=fcm;pn-param={project};pn-prid={FCM_TOKEN}");
    let (_, learned) = phone.contact(&served, ";+sip.pnsreg").expires(600).wake(SOON).await?;
    assert_eq!(learned.refresh_before_s, Some(180));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edge_is_no_open_proxy() -> Outcome {
    let change = |setup: &mut tests::relay_setup::Setup| {
        setup.domains = ["example.test", "127.0.0.1", "127.0.0.2"].map(str::to_owned).to_vec();
        setup.allow_addresses = vec!["127.0.0.1/32".to_owned()];
    };
    let world = World::with(change).await?;
    let phone = world.push_phone(&android());
    let port = world.registrar.address(Transport::Tls).port();
    let asked = |registrar: &str, aor: &str| {
        let mut phone = phone.clone();
        phone.settings.aor = aor.to_owned();
        if let Some(through) = &mut phone.settings.through {
            through.registrar = registrar.to_owned();
        }
        async move { Ok::<_, Missed>(phone.try_to_register(SOON * 3).await?.1.status()) }
    };
    let own = world.registrar.uri(Transport::Tls);
    assert_eq!(asked(&own, "sip:alice@elsewhere.test").await?, Some(403), "a foreign domain");
    assert_eq!(asked("sip:elsewhere.test", "sip:alice@example.test").await?, Some(403), "a foreign registrar");
    let private = format!("sip:127.0.0.2:{port};transport=tls");
    assert_eq!(asked(&private, "sip:alice@example.test").await?, Some(504), "an address that is not public");
    let (_, answer) = phone.clone().contact("", "").try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(403), "a REGISTER that asks for no pushes");
    world.await_metric("sipwake_edge_registers_total{outcome=\"unknown\"}", 3.0).await?;
    assert_eq!(world.registrar.register_count(), 0);
    // Whatever one that is registered sends goes to its own server, which knows no Carol.
    let elsewhere = TcpListener::bind("127.0.0.2:0").map_err(|e| Missed::new("a listener", e.to_string()))?;
    elsewhere.set_nonblocking(true).map_err(|e| Missed::new("a listener", e.to_string()))?;
    let address = elsewhere.local_addr().map_err(|e| Missed::new("its address", e.to_string()))?;
    let named = format!("sip:carol@{address};transport=tcp");
    let device = world.wake(&phone).await?;
    for target in ["sip:carol@elsewhere.test", &named, "sip:carol@example.test"] {
        let answer = device.request("MESSAGE", target, SOON).await?;
        assert_eq!((answer.status(), answer.has(Name::Warning)), (Some(404), false), "{target}");
    }
    assert!(elsewhere.accept().is_err(), "nobody has come");
    // A connection that has registered nobody may send nothing at all.
    let stranger =
        Phone::connect(device.settings().clone()).await.map_err(|e| Missed::new("a connection", e.to_string()))?;
    assert_eq!(stranger.request("MESSAGE", "sip:carol@example.test", SOON).await?.status(), Some(403));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_has_registered_nothing_may_ask_its_server_what_is_registered_and_registers_nothing()
-> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let device =
        Phone::connect(phone.settings.clone()).await.map_err(|e| Missed::new("a connection", e.to_string()))?;
    let answer = device.fetch(SOON).await?;
    assert_eq!((answer.status(), answer.contacts().len()), (Some(200), 0));
    assert_eq!(world.registrar.register_count(), 2, "its server has asked for its password");
    assert_eq!(device.request("MESSAGE", "sip:carol@example.test", SOON).await?.status(), Some(403));
    assert_eq!(world.relay.metric("sipwake_push_registrations").await, Some(0.0));
    world.content()
}

/// The AOR's domain alone would let anybody have a server of his own called from here.
#[tokio::test(flavor = "multi_thread")]
async fn of_the_domains_that_need_no_push_all_of_a_register_must_be() -> Outcome {
    for (listed, status) in [("example.test", 403), ("127.0.0.1", 403), ("*.test,127.0.0.1", 200)] {
        let variables = [("SIPWAKE_EDGE__FLOW_DOMAINS", listed), ("SIPWAKE_LIMITS__REGISTRATIONS_PER_SOURCE", "1")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let world = World::with(|setup| setup.environment.extend(variables)).await?;
        let phone = world.push_phone(&android()).contact("", "");
        let (device, answer) = phone.clone().try_to_register(SOON).await?;
        assert_eq!((answer.status(), answer.has(Name::Warning)), (Some(status), status == 403), "{listed}");
        if status == 200 {
            assert_eq!(learned(&answer), tests::push_phone::Learned::default(), "nothing is said of pushes");
            let (_, further) = phone.clone().another_device().try_to_register(SOON).await?;
            assert_eq!((further.status(), further.has(Name::RetryAfter)), (Some(503), true), "one has its limits, too");
            let (again, answer) = phone.clone().try_to_register(SOON).await?;
            assert_eq!(answer.status(), Some(200), "one that is known comes again");
            sleep(device);
            let answer = again.request("MESSAGE", "sip:carol@example.test", SOON).await?;
            assert_eq!(answer.status(), Some(404), "its server knows no Carol");
            let (_, answer) = phone.expires(0).try_to_register(SOON).await?;
            assert_eq!(answer.status(), Some(200));
            world.await_metric("sipwake_flow_registrations", 0.0).await?;
            assert_eq!(again.request("MESSAGE", "sip:carol@example.test", SOON).await?.status(), Some(403));
        } else {
            assert_eq!(world.registrar.register_count(), 0);
        }
        world.content()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_registers_that_pass_and_of_what_they_register_is_counted() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let (device, _) = phone.clone().try_to_register(SOON).await?;
    device.register(SOON).await?;
    let passed = |outcome: &str| format!("sipwake_passed_registers_total{{outcome=\"{outcome}\"}}");
    world.await_metric(&passed("registered"), 1.0).await?;
    world.await_metric(&passed("refreshed"), 1.0).await?;
    let mut wrong = phone.clone();
    wrong.settings.password = "guess".to_owned();
    wrong.try_to_register(SOON).await?;
    // It answers two challenges.
    world.await_metric(&passed("unproven"), 2.0).await?;
    // Both are of one phone, which is one that fails until a refresh is granted, or it is gone.
    world.await_metric("sipwake_push_registrations_failing", 1.0).await?;
    device.register(SOON).await?;
    world.await_metric("sipwake_push_registrations_failing", 0.0).await?;
    wrong.try_to_register(SOON).await?;
    world.await_metric("sipwake_push_registrations_failing", 1.0).await?;
    phone.expires(0).try_to_register(SOON).await?;
    world.await_metric(&passed("unregistered"), 1.0).await?;
    world.await_metric("sipwake_push_registrations_ended_total{end=\"unregistered\"}", 1.0).await?;
    world.await_metric("sipwake_push_registrations_failing", 0.0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_the_registrars_affair_and_guessing_ends_the_connection() -> Outcome {
    let world = World::start().await?;
    let mut phone = world.push_phone(&android());
    phone.settings.password = "guess".to_owned();
    let (device, answer) = phone.try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(401));
    while let Ok(answer) = device.register(SOON).await {
        assert_eq!(answer.status(), Some(401));
    }
    device.await_closed(SOON).await?;
    assert_eq!(world.relay.metric("sipwake_push_registrations").await, Some(0.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_forged_or_comes_from_elsewhere_wakes_nobody() -> Outcome {
    let world = World::over(Transport::Udp).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let binding = world.contacts().pop().ok_or_else(|| Missed::new("a contact", "none"))?;
    let path = binding.path.join(", ");
    let forged: String =
        path.chars().enumerate().map(|(at, c)| if at == 20 { if c == 'A' { 'B' } else { 'A' } } else { c }).collect();
    let to = world.relay.upstream(Transport::Udp);
    for (route, status) in [(forged, 404), ("<sip:127.0.0.1:5099;lr>".to_owned(), 404)] {
        let options = CallOptions::default().header("Route", &route);
        let caller = Caller::direct(to, Transport::Udp, None, &binding.uri, &options).await?;
        caller.expect(status, SOON).await?;
    }
    assert_eq!(world.fcm.count(), 0);
    // Its own Path, from an address that is not the SIP server's.
    let answer = from_elsewhere(to, &binding.uri, &path).await?;
    assert!(answer.starts_with("SIP/2.0 403"), "{answer}");
    assert_eq!(world.fcm.count(), 0);
    Ok(())
}

/// One INVITE in a datagram from 127.0.0.9, and the first line of its answer.
async fn from_elsewhere(to: std::net::SocketAddr, uri: &str, path: &str) -> Result<String, Missed> {
    let socket = tokio::net::UdpSocket::bind("127.0.0.9:0").await?;
    let own = socket.local_addr()?;
    let invite = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKelsewhere\r\nRoute: {path}\r\nMax-Forwards: 70\r\n\
         From: <sip:mallory@example.test>;tag=1\r\nTo: <sip:alice@example.test>\r\nCall-ID: elsewhere\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:mallory@{own}>\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(invite.as_bytes(), to).await?;
    let mut buffer = vec![0; 4096];
    let length =
        tokio::time::timeout(SOON, socket.recv(&mut buffer)).await.map_err(|_| Missed::new("an answer", "none"))??;
    Ok(String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_registrations_on_one_connection_reaches_the_registrar_in_drops() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let device = tests::phone::Phone::connect(phone.settings.clone()).await?;
    let registrar = world.registrar.uri(world.transport);
    for number in 0..10_000 {
        let aor = format!("sip:u{number}@example.test");
        let pn = Service::Fcm(format!("token-{number}")).parameters();
        let text = format!(
            "REGISTER {registrar} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:9;branch=z9hG4bK{number};rport\r\n\
             Max-Forwards: 70\r\nFrom: <{aor}>;tag=1\r\nTo: <{aor}>\r\nCall-ID: flood{number}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:u{number}@127.0.0.1:9{pn}>\r\nContent-Length: 0\r\n\r\n"
        );
        device.send_raw(text.as_bytes());
    }
    device.await_closed(SOON * 2).await?;
    // As many as a flow may send at once, on each shard.
    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(world.registrar.register_count() <= 40 * shards, "{}", world.registrar.register_count());
    let other = world.wake(&phone).await?;
    sleep(other);
    Ok(())
}
