//! The same with a real Kamailio that keeps Path, and a real SIPp as the caller.

use serde_json::Value;
use tests::baresip::{self, Baresip};
use tests::board::Missed;
use tests::kamailio::Reach;
use tests::linphone::Linphone;
use tests::push_phone::{PushPhone, Service, sleep};
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::FCM_TOKEN;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

const WOKEN: &str = "sipwake_http_requests_total{route=\"/v1/wake\",status=\"200\"}";

fn plan(transport: Transport) -> Plan {
    Plan { reach: Reach::Path, provider: "fcm", redis: true, ..Plan::over(transport) }
}

fn android() -> Service {
    Service::Fcm(FCM_TOKEN.to_owned())
}

/// Alice's phone has registered through the relay and sleeps; Kamailio and Redis know of it.
async fn asleep(world: &World) -> Result<PushPhone, Missed> {
    let phone = world.push_phone(&android());
    falls_asleep(world, &phone).await?;
    Ok(phone)
}

/// The same of a phone that may have another edge.
async fn falls_asleep(world: &World, phone: &PushPhone) -> Outcome {
    let learned = phone.register_and_sleep(SOON).await?;
    assert_eq!(learned.services, ["fcm"]);
    let located = world.await_location(1).await?;
    assert!(located[0].uri.contains("pn-prid"), "{}", located[0].uri);
    let redis = world.registrar.redis.as_ref().expect("a world with Redis");
    let stored = || async { redis.keys().iter().any(|key| key.starts_with("sipwake:i:")).then_some(()) };
    world.until("a stored record", stored).await
}

/// SIPp calls; the phone that the push wakes answers, and the call ends as the scenario has it. Gives the push.
async fn ring(world: &World, phone: &PushPhone, scenario: Scenario) -> Result<Value, Missed> {
    let caller = world.sipp_calls(scenario)?;
    let push = world.android_push().await?;
    assert_eq!(push["event"], "call");
    let (device, call) = world.wake_to_call(phone).await?;
    call.ring();
    call.answer();
    call.expect_ack(SOON).await?;
    match scenario {
        Scenario::CalleeHangsUp => call.hang_up(SOON).await?,
        _ => drop(call.expect_bye(SOON).await?),
    }
    world.finished(caller).await?;
    sleep(device);
    world.content()?;
    Ok(push)
}

async fn rings_over(transport: Transport, scenario: Scenario) -> Outcome {
    let world = World::real(plan(transport)).await?;
    let phone = asleep(&world).await?;
    ring(&world, &phone, scenario).await?;
    assert_eq!(world.fcm.count(), 1);
    Ok(())
}

plays! { rings_over:
    fn kamailio_keeps_the_path_over_udp_and_the_caller_ends_the_call(Transport::Udp, Scenario::CallerHangsUp);
    fn kamailio_keeps_the_path_over_tcp_and_the_phone_ends_the_call(Transport::Tcp, Scenario::CalleeHangsUp);
    fn kamailio_keeps_the_path_over_tls_and_the_phone_ends_the_call(Transport::Tls, Scenario::CalleeHangsUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_at_kamailio_leaves_no_phone_ringing() -> Outcome {
    let world = World::real(plan(Transport::Udp)).await?;
    let phone = asleep(&world).await?;
    let caller = world.sipp_calls(Scenario::CallerCancels)?;
    assert_eq!(world.android_push().await?["event"], "call");
    world.finished(caller).await?;
    assert_eq!(world.android_push().await?["event"], "call-ended");
    world.wakes_in_vain(&phone).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_killed_is_found_again_by_kamailios_path() -> Outcome {
    let mut world = World::real(plan(Transport::Tls)).await?;
    let phone = asleep(&world).await?;
    world.relay.kill_9().await?;
    world.restart().await?;
    world.relay.await_log("instances-taken-over", SOON).await?;
    world.await_metric("sipwake_upstream_flows", 1.0).await?;
    ring(&world, &phone, Scenario::CalleeHangsUp).await.map(drop)
}

plays! { both_ways:
    fn linphone_calls_baresip_and_baresip_linphone_with_the_edge_as_its_one_proxy_over_udp(Transport::Udp);
    fn linphone_calls_baresip_and_baresip_linphone_with_the_edge_as_its_one_proxy_over_tls(Transport::Tls);
}

/// A stock softphone whose only proxy is the edge calls out and is called, through a Kamailio that asks every caller for his
/// credentials. The other side is at Kamailio itself.
async fn both_ways(transport: Transport) -> Outcome {
    // Linphone's TLS knows certificates for names alone, not for addresses.
    let world =
        World::real(Plan { asks_callers: true, by_domain: true, edge_host: "localhost", ..plan(transport) }).await?;
    let domain = world.registrar.domain();
    let (bob, password) = &world.registrar.other;
    let account = baresip::Account {
        aor: world.registrar.aor(bob),
        // With it baresip names itself by a GRUU, which this Kamailio gives and does not resolve in a dialog.
        outbound: false,
        ..baresip::Account::new(&world.registrar.uri(Transport::Udp), bob, password)
    };
    let baresip = Baresip::start(&account, &world.authority).await?;
    baresip.await_registered(SOON).await?;
    let edge = format!("sip:localhost:{};transport=tls", world.relay.setup().ports.edge);
    let (user, password) = (&world.registrar.user, &world.registrar.password);
    let account = baresip::Account { aor: world.aor(), ..baresip::Account::new(&edge, user, password) };
    let pn = android().parameters();
    let linphone = Linphone::start_woken(pn.trim_start_matches(';'), &account, domain, &world.authority)?;
    linphone.await_registered(SOON).await?;
    let told = |missed: Missed| {
        Missed::new(missed.awaited, format!("{}\n{}\n{}", missed.seen, linphone.output(), world.relay.log()))
    };

    linphone.call(&world.registrar.aor(bob))?;
    baresip.answer(1, SOON).await.map_err(told)?;
    linphone.await_established(SOON).await.map_err(told)?;
    linphone.hang_up()?;
    baresip.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    linphone.await_ended(SOON).await?;

    baresip.command("dial", &world.aor()).await?;
    linphone.await_incoming(SOON).await.map_err(told)?;
    linphone.accept()?;
    baresip.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
    baresip.hang_up().await?;
    linphone.await_ended(SOON).await.map_err(told)?;
    assert_eq!(world.fcm.count(), 0, "it was there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_holds_a_call_has_a_phone_that_lent_nothing_woken_and_sends_it_without_a_second_push() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp] {
        let world = World::real(Plan { wake: true, ..plan(transport) }).await?;
        let phone = asleep(&world).await?;
        for calls in 1..=2 {
            ring(&world, &phone, Scenario::CallerHangsUp).await?;
            assert_eq!(world.fcm.count(), calls, "one push for one call");
            world.await_all_asleep().await?;
        }
        let told = world.registrar.output();
        assert!(told.contains("sipwake answered 200"), "{told}");
        assert_eq!(world.metric(WOKEN).await, Some(2.0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_asks_one_node_to_wake_a_phone_that_lent_nothing_and_sends_the_call_by_the_path_of_another() -> Outcome
{
    let world = World::real(Plan { wake: true, ..plan(Transport::Tls) }).await?;
    let other = world.another_node().await?;
    let mut phone = world.push_phone(&android());
    phone.settings.server = other.edge_uri();
    falls_asleep(&world, &phone).await?;
    let push = ring(&world, &phone, Scenario::CallerHangsUp).await?;
    assert_eq!(push["edge"], other.edge_address().to_string());
    assert_eq!(world.fcm.count(), 1, "one push for one call");
    assert_eq!(
        (world.metric(WOKEN).await, other.metric(WOKEN).await),
        (Some(1.0), None),
        "asked, and not counted where it was carried"
    );
    Ok(())
}
