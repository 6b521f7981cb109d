//! Stock clients that write no `pn-*`, with the edge as their one outbound proxy, through a real Kamailio that keeps Path and asks
//! every caller for his credentials. The other side is a baresip at Kamailio itself.

use tests::baresip::{Account, Baresip};
use tests::board::Missed;
use tests::kamailio::Reach;
use tests::linphone::Linphone;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

const REGISTERED: &str = "sipwake_flow_registrations";

/// A world whose relay lets these domains register without push.
async fn world(transport: Transport, flow_domains: &str, edge_host: &'static str) -> Result<World, Missed> {
    let plan = Plan {
        edge_host,
        reach: Reach::Path,
        redis: true,
        asks_callers: true,
        by_domain: true,
        ..Plan::over(transport)
    };
    World::real_with(plan, |setup| {
        setup.environment.push(("SIPWAKE_EDGE__FLOW_DOMAINS".to_owned(), flow_domains.to_owned()));
    })
    .await
}

/// Alice's account, by the edge alone.
fn alices(world: &World, outbound: bool) -> Account {
    let edge = format!("sip:{}:{};transport=tls", world.registrar.plan.edge_host, world.relay.setup().ports.edge);
    let (user, password) = (&world.registrar.user, &world.registrar.password);
    Account { aor: world.aor(), outbound, aor_names_transport: false, ..Account::new(&edge, user, password) }
}

/// Bob, at Kamailio.
async fn bob(world: &World) -> Result<Baresip, Missed> {
    let (user, password) = &world.registrar.other;
    let account = Account {
        aor: world.registrar.aor(user),
        // With it baresip names itself by a GRUU, which this Kamailio gives and does not resolve in a dialog.
        outbound: false,
        ..Account::new(&world.registrar.uri(Transport::Udp), user, password)
    };
    let bob = Baresip::start(&account, &world.authority).await?;
    bob.await_registered(SOON).await?;
    Ok(bob)
}

plays! { without_push:
    fn baresip_calls_out_and_is_called_by_its_connection_over_udp(Transport::Udp, false, "480");
    fn baresip_calls_out_and_is_called_by_its_connection_over_tls(Transport::Tls, false, "480");
    fn baresip_with_outbound_calls_out_and_is_called_and_its_registrar_hears_of_a_lost_flow(Transport::Tls, true, "430");
}

/// `gone`: what a caller hears when the client is gone.
async fn without_push(transport: Transport, outbound: bool, gone: &str) -> Outcome {
    let world = world(transport, "example.test", "127.0.0.1").await?;
    let bob = bob(&world).await?;
    let alice = Baresip::start(&alices(&world, outbound), &world.authority).await?;
    let told = |missed: Missed| {
        Missed::new(missed.awaited, format!("{}\n{}\n{}", missed.seen, alice.output(), world.relay.log()))
    };
    alice.await_registered(SOON).await.map_err(told)?;
    world.await_location(1).await?;
    world.await_metric(REGISTERED, 1.0).await?;

    for (number, alice_ends) in [(1, true), (2, false)] {
        alice.command("dial", &world.registrar.aor(&world.registrar.other.0)).await?;
        bob.answer(number, SOON).await.map_err(told)?;
        alice.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
        if alice_ends {
            alice.hang_up().await?;
        } else {
            bob.hang_up().await?;
        }
        alice.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
        bob.await_event("CALL_CLOSED", SOON).await.map_err(told)?;

        bob.command("dial", &world.aor()).await?;
        alice.answer(number, SOON).await.map_err(told)?;
        bob.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
        if alice_ends {
            alice.hang_up().await?;
        } else {
            bob.hang_up().await?;
        }
        alice.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
        bob.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    }
    // As a phone that loses power: Kamailio has its Contact still.
    alice.kill().await?;
    world.await_all_asleep().await?;
    bob.command("dial", &world.aor()).await?;
    let closed = bob.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    assert!(closed["param"].as_str().is_some_and(|why| why.starts_with(gone)), "{closed}");
    assert_eq!(world.location().await?.len(), 1, "only the client can unregister");
    let redis = world.registrar.redis.as_ref().expect("a world with Redis");
    assert!(!redis.keys().iter().any(|key| key.starts_with("sipwake:i:")), "{:?}", redis.keys());
    assert_eq!(world.pushes(), 0);
    world.await_metric(REGISTERED, 0.0).await?;
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn linphone_without_push_parameters_calls_baresip_and_is_called() -> Outcome {
    // Linphone's TLS knows certificates for names alone, not for addresses.
    let world = world(Transport::Tls, "*.other.test,example.test", "localhost").await?;
    let bob = bob(&world).await?;
    let linphone = Linphone::start_through(&alices(&world, true), world.registrar.domain(), &world.authority)?;
    linphone.await_registered(SOON).await?;
    linphone.call(&world.registrar.aor(&world.registrar.other.0))?;
    bob.answer(1, SOON).await?;
    linphone.await_established(SOON).await?;
    linphone.hang_up()?;
    bob.await_event("CALL_CLOSED", SOON).await?;
    linphone.await_ended(SOON).await?;

    bob.command("dial", &world.aor()).await?;
    linphone.await_incoming(SOON).await?;
    linphone.accept()?;
    bob.await_event("CALL_ESTABLISHED", SOON).await?;
    bob.hang_up().await?;
    linphone.await_ended(SOON).await?;
    assert_eq!(world.pushes(), 0);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_the_operator_has_not_listed_is_403_and_a_warning_tells_what_is_missing() -> Outcome {
    for listed in ["", "other.test"] {
        let world = world(Transport::Udp, listed, "127.0.0.1").await?;
        let alice = Baresip::start(&alices(&world, false), &world.authority).await?;
        let refused = || async { alice.output().contains("SIP/2.0 403 Forbidden").then_some(()) };
        world.until("a refusal", refused).await?;
        let warned = || async { alice.output().contains("with pn-provider alone (RFC 8599)").then_some(()) };
        world.until("its Warning", warned).await?;
        assert_eq!(world.location().await?.len(), 0, "nothing has reached Kamailio");
        assert_eq!(world.registrar.asked(), Vec::<String>::new());
        world.end().await?;
    }
    Ok(())
}
