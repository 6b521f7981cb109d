//! How an instance stays registered: refreshes, SIP servers that forget or drop, a password that was changed, presence.

use std::time::Duration;

use serde_json::json;
use sip::message::Name;
use tests::api_client::Instance;
use tests::registrar::Behaviour;
use tests::wire::Transport;
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World, hasty};

use super::Outcome;

#[tokio::test]
async fn a_registration_is_refreshed_before_it_expires_with_the_same_contact() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.register_expires = "5s".to_owned()).await?;
    let aor = world.aor();
    let (first, seen) = (world.registrar.contacts(&aor), world.registrar.registers(&aor).len());
    let refresh = world.registrar.await_registers(&aor, seen + 1, SOON).await?;
    let early = first[0].expires_at.checked_duration_since(refresh.at);
    assert!(early.is_some_and(|early| early > Duration::from_millis(200)), "before it expires: {early:?}");
    assert!(refresh.at.duration_since(first[0].registered_at) >= Duration::from_secs(3), "and not all the time");
    assert_eq!(refresh.status, Some(200), "with the nonce that was given, without another challenge");
    assert_eq!(world.registrar.contacts(&aor)[0].uri, first[0].uri);
    let registers = world.registrar.registers(&aor);
    let number = |at: usize| registers[at].request.cseq().map(|(number, _)| number);
    assert!((1..registers.len()).all(|at| number(at) > number(at - 1)), "CSeq grows");
    assert!(registers.iter().all(|it| it.request.call_id() == registers[0].request.call_id()), "Call-ID stays");
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_sip_server_that_grants_less_than_was_asked_is_refreshed_in_its_time() -> Outcome {
    let world = World::start().await?;
    let aor = world.aor();
    world.registrar.behave(&aor, Behaviour::Grant(5));
    let instance = world.enable().await?;
    assert_eq!(instance.answer["registration"]["expires_in_s"], 5);
    let seen = world.registrar.registers(&aor).len();
    world.registrar.await_registers(&aor, seen + 1, SOON).await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn an_interval_that_the_sip_server_finds_too_brief_is_lengthened() -> Outcome {
    let world = World::with(|setup| setup.register_expires = "60s".to_owned()).await?;
    world.registrar.behave(&world.aor(), Behaviour::MinExpires(400));
    let instance = world.enable().await?;
    assert_eq!(instance.answer["registration"]["expires_in_s"], 400);
    world.whole_call(&instance).await
}

async fn a_sip_server_that_restarts_empty_over(transport: Transport) -> Outcome {
    let world = World::over_with(transport, |setup| setup.register_expires = "5s".to_owned()).await?;
    let instance = world.enable().await?;
    world.registrar.forget();
    world.registrar.drop_flows();
    world.await_contacts(1).await?;
    world.whole_call(&instance).await
}

plays! { a_sip_server_that_restarts_empty_over:
    fn a_sip_server_that_restarts_empty_gets_its_registrations_again_over_tls(Transport::Tls);
    fn a_sip_server_that_restarts_empty_gets_its_registrations_again_over_udp(Transport::Udp);
}

#[tokio::test]
async fn a_connection_that_the_sip_server_drops_is_made_again_at_once_for_all_its_instances() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.enable_other().await?;
    let aor = world.aor();
    let before: Vec<u64> = world.registrar.contacts(&aor).iter().map(|contact| contact.flow.id()).collect();
    assert_eq!(before.len(), 1);
    world.registrar.drop_flows();
    // Registered for ten minutes: nothing but the loss makes them register again.
    let all = world
        .until("a new connection", || async {
            let now = world.registrar.contacts(&aor);
            (now.iter().all(|contact| !before.contains(&contact.flow.id()) && contact.flow.is_open())).then_some(now)
        })
        .await?;
    assert_eq!(all.len(), 1, "no stale Contact is left");
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    let caller = world.registrar.call_contact(&aor, &all[0].uri, &all[0].flow, &tests::caller::CallOptions::default());
    world.push().await?;
    assert_eq!(world.api.read(&instance).await?.json()["registration"]["state"], "registered");
    world.cancel(&caller).await?;
    world.watch_caller(&caller);
    world.content()
}

#[tokio::test]
async fn a_password_that_was_changed_ends_the_instance_after_three_attempts_far_apart() -> Outcome {
    let world = World::with(hasty).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let aor = world.aor();
    let seen = world.registrar.registers(&aor).len();
    world.registrar.change_password("alice", "changed");
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"refused-upstream\"}", 1.0).await?;
    world.await_metric("sipwake_registrations_total{outcome=\"refused\"}", 3.0).await?;
    assert_eq!(
        world.metric("sipwake_registrations_total{outcome=\"failed\"}").await.unwrap_or_default(),
        0.0,
        "no outage"
    );
    for event in ["registration-failing", "registration-lost"] {
        let push = world.apple_push().await?;
        assert_eq!((push.token.as_str(), push.payload["sipwake"]["event"].as_str()), (OTHER_TOKEN, Some(event)));
    }
    // The refresh used the nonce it had, which the server no longer knew; then its new one. Each further attempt begins
    // without a nonce.
    let after = world.registrar.registers(&aor).split_off(seen);
    let answered: Vec<_> = after.iter().map(|seen| seen.request.text(Name::Authorization).is_some()).collect();
    assert_eq!(answered, [true, true, false, true, false, true], "three attempts, each answering one fresh challenge");
    let nonce = |at: usize| {
        let text = after[at].request.text(Name::Authorization).unwrap_or_default().to_owned();
        tests::digest::Fields::parse(&text).and_then(|fields| fields.get("nonce").map(str::to_owned))
    };
    assert_ne!(nonce(0), nonce(1));
    world.content()
}

#[tokio::test]
async fn an_account_that_is_forbidden_three_times_in_a_row_is_wiped() -> Outcome {
    let (world, instance) = World::lent_with(hasty).await?;
    world.registrar.behave(&world.aor(), Behaviour::Refuse(403));
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"refused-upstream\"}", 1.0).await?;
    world.content()
}

/// Its database is away, say, or it bans the relay's address.
#[tokio::test]
async fn a_sip_server_that_refuses_all_accounts_ends_none_and_one_that_is_refused_while_others_are_granted_ends()
-> Outcome {
    let world = World::among(&[("bob", "builder"), ("carol", "carbon")], hasty).await?;
    let lent = [
        world.enable_as(&world.enable_request_with_alerts()).await?,
        world.enable_as(&world.enable_request_anew("bob")).await?,
        world.enable_as(&world.enable_request_anew("carol")).await?,
    ];
    let aors = ["alice", "bob", "carol"].map(|user| world.registrar.aor(user));
    let refusals = |aor: &String| world.registrar.registers(aor).iter().filter(|it| it.status == Some(403)).count();
    aors.iter().for_each(|aor| world.registrar.behave(aor, Behaviour::Refuse(403)));
    let refused = || async { aors.iter().all(|aor| refusals(aor) >= 4).then_some(()) };
    world.until("each is refused four times", refused).await?;
    for instance in &lent {
        assert_eq!(world.api.read(instance).await?.json()["registration"]["state"], "retrying");
    }
    let told = world.apple_push().await?;
    assert_eq!(told.payload["sipwake"]["event"], "registration-failing");
    assert!(world.relay.log().contains("refusals-doubted"));
    // It serves again, but for Alice, whose password was changed meanwhile.
    aors.iter().for_each(|aor| world.registrar.behave(aor, Behaviour::Accept));
    world.registrar.change_password("alice", "changed");
    world.await_gone(&lent[0]).await?;
    world.await_metric("sipwake_wipes_total{reason=\"refused-upstream\"}", 1.0).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    world.content()
}

#[tokio::test]
async fn an_account_that_the_sip_server_refuses_is_answered_422_with_its_status() -> Outcome {
    let world = World::start().await?;
    for (behaviour, status) in
        [(Behaviour::Refuse(403), 403), (Behaviour::Refuse(404), 404), (Behaviour::AskForever, 401)]
    {
        world.registrar.behave(&world.aor(), behaviour);
        let answer = world.api.enable(&world.enable_request(TOKEN)).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
        assert!(answer.text().contains(&status.to_string()), "it names the SIP status: {}", answer.text());
    }
    assert_eq!(world.contacts().len(), 0);
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    let instance = world.enable().await?;
    world.whole_call(&instance).await
}

/// The likeliest moment to enable push again is when no calls come.
#[tokio::test]
async fn a_device_that_is_refused_as_it_comes_ends_no_other_of_the_account_that_was_registered_before() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.register_expires = "5s".to_owned()).await?;
    let aor = world.aor();
    world.registrar.behave(&aor, Behaviour::Refuse(503));
    let state = || async { Some(world.api.read(&instance).await.ok()?.json()["registration"]["state"].clone()) };
    let fails = || async { (state().await? == "retrying").then_some(()) };
    world.until("its refresh fails", fails).await?;
    // Another phone of the account, or the same one again.
    for (behaviour, status, token) in [
        (Behaviour::Refuse(403), 403, OTHER_TOKEN),
        (Behaviour::Refuse(404), 404, TOKEN),
        (Behaviour::AskForever, 401, OTHER_TOKEN),
    ] {
        world.registrar.behave(&aor, behaviour);
        let answer = world.api.enable(&world.enable_request(token)).await?;
        let refusal = (answer.status, answer.json()["sip_status"].as_u64());
        assert_eq!(refusal, (422, Some(status)), "{}", answer.text());
        assert_eq!(state().await, Some("retrying".into()), "{status}");
    }
    world.content()
}

#[tokio::test]
async fn a_device_that_is_refused_as_it_comes_ends_none_whose_app_is_in_the_foreground() -> Outcome {
    let (world, instance) = World::lent().await?;
    let aor = world.aor();
    world.change(&instance, json!({"presence": "foreground"})).await?;
    world.await_contacts(0).await?;
    world.registrar.behave(&aor, Behaviour::Refuse(403));
    assert_eq!(world.api.enable(&world.enable_request(OTHER_TOKEN)).await?.status, 422);
    world.registrar.behave(&aor, Behaviour::Accept);
    world.change(&instance, json!({"presence": "background"})).await?;
    world.await_contacts(1).await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_private_address_is_refused_unless_the_operator_lists_it() -> Outcome {
    let world = World::with(|setup| setup.allow_addresses = Vec::new()).await?;
    for registrar in [
        world.registrar.uri(Transport::Tls),
        "sip:localhost:5061;transport=tls".to_owned(),
        "sip:169.254.169.254:80;transport=tls".to_owned(),
        "sip:[::1]:5061;transport=tls".to_owned(),
        "sip:[::ffff:10.0.0.1]:5061;transport=tls".to_owned(),
    ] {
        let mut request = world.enable_request(TOKEN);
        request["account"]["registrar"] = json!(registrar);
        let answer = world.api.enable(&request).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (403, Some("address-not-allowed")), "{registrar}");
    }
    assert_eq!(world.registrar.register_count(), 0);
    Ok(())
}

#[tokio::test]
async fn in_the_foreground_the_app_registers_itself_and_behind_it_the_relay_does_again() -> Outcome {
    let (world, instance) = World::lent().await?;
    for _ in 0..2 {
        let answer = world.api.change(&instance, &json!({"presence": "foreground"})).await?;
        assert_eq!((answer.status, &answer.json()["presence"]), (200, &json!("foreground")), "{}", answer.text());
        world.await_contacts(0).await?;
        assert_eq!(world.api.read(&instance).await?.json()["state"], "foreground");
        world.change(&instance, json!({"presence": "background"})).await?;
        world.await_contacts(1).await?;
        world.whole_call(&instance).await?;
    }
    Ok(())
}

/// A SIP server that takes one Contact of an account turns the second one away as long as the first stands (Kamailio's `max_contacts`: 503).
#[tokio::test]
async fn an_account_that_is_enabled_again_by_another_transport_is_registered_as_soon_as_its_first_contact_is_gone()
-> Outcome {
    let world = World::with(|setup| setup.transports = vec![Transport::Tls, Transport::Tcp]).await?;
    let before = world.enable().await?;
    world.registrar.script(&world.aor(), &[Behaviour::Refuse(503), Behaviour::Accept]);
    let mut request = world.enable_request(TOKEN);
    request["account"]["registrar"] = world.registrar.uri(Transport::Tcp).into();
    let answer = world.api.enable(&request).await?;
    assert_eq!(
        (answer.status, answer.json()["registration"]["status"].as_u64()),
        (202, Some(503)),
        "{}",
        answer.text()
    );
    let instance = Instance::new(&request, answer.json());
    world.await_gone(&before).await?;
    // The wait of RFC 5626 §4.5 would be half a minute.
    world.await_contacts(1).await?;
    assert!(world.contacts()[0].uri.contains("transport=tcp"), "{:?}", world.contacts()[0].uri);
    world.whole_call(&instance).await
}
