//! Whoever tries passwords through the relay: with an app key, with no credential at all, and by both.

use serde_json::json;
use sip::message::Name;
use tests::phone::Phone;
use tests::push_phone::{PushPhone, Service, learned};
use tests::world::{FCM_TOKEN, SOON, TOKEN, World};

type Outcome = tests::world::Outcome;

fn service() -> Service {
    Service::Fcm(FCM_TOKEN.to_owned())
}

/// Somebody who registers through the edge as Alice, with this password.
fn guesser(world: &World, password: &str) -> PushPhone {
    let mut phone = world.push_phone(&service()).another_device();
    phone.settings.password = password.to_owned();
    phone
}

/// The proofs that reached the SIP server.
fn carried(world: &World) -> usize {
    world.registrar.registers(&world.aor()).iter().filter(|seen| seen.request.has(Name::Authorization)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_wrong_passwords_by_https_are_a_few_at_the_sip_server_and_429() -> Outcome {
    let world = World::start().await?;
    let (mut refused, mut limited) = (0, 0);
    for n in 0..200 {
        let mut request = world.enable_request(&format!("{n:064x}"));
        request["account"]["password"] = json!(format!("guess-{n}"));
        // Nor does it help to write the account in many ways.
        if n % 2 == 1 {
            request["account"]["aor"] = json!(world.aor().replace("alice", "%61lice"));
        }
        let answer = world.api.enable(&request).await?;
        match answer.status {
            422 => refused += 1,
            429 => {
                limited += 1;
                let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((1..=900).contains(&wait), "{wait}");
                assert_eq!(answer.problem().as_deref(), Some("too-many-requests"));
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    assert!(refused <= 8 && limited >= 192, "{refused} refused, {limited} limited");
    assert!(carried(&world) <= 8, "{} proofs were carried", carried(&world));
    // And with no credential of the relay's: the failures are the account's, whoever carries them.
    let (_, answer) = guesser(&world, "guess").try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(503));
    assert!(answer.text(Name::RetryAfter).is_some());
    world.await_metric("sipwake_limits_total{limit=\"failures-account\"}", limited as f64 + 1.0).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_wrong_passwords_by_as_many_connections_are_a_few_at_the_sip_server() -> Outcome {
    let world = World::start().await?;
    let guesses: Vec<PushPhone> = (0..100).map(|n| guesser(&world, &format!("guess-{n}"))).collect();
    let mut tries = tokio::task::JoinSet::new();
    for phone in guesses {
        tries.spawn(async move { phone.try_to_register(SOON * 3).await.map(|(_, answer)| answer.status()) });
    }
    let mut limited = 0;
    while let Some(answer) = tries.join_next().await {
        limited += usize::from(answer.unwrap()? == Some(503));
    }
    assert!(limited >= 90, "{limited} were told to wait");
    assert!(carried(&world) <= 8, "{} proofs were carried", carried(&world));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_let_in_again_after_a_short_pause() -> Outcome {
    let world = World::start().await?;
    for n in 0..7 {
        let mut request = world.enable_request(TOKEN);
        request["account"]["password"] = json!(format!("guess-{n}"));
        world.api.enable(&request).await?;
    }
    // The same address, even: here it is the owner who mistyped.
    let let_in = || async {
        let answer = world.api.enable(&world.enable_request(TOKEN)).await.ok()?;
        (answer.status == 201).then_some(())
    };
    world.until("an enabling after the pause", let_in).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_for_push_services_travels_nowhere_with_or_without_a_proof() -> Outcome {
    let world = World::start().await?;
    let phone = guesser(&world, "guess").contact(";pn-provider", "");
    let (connected, answer) = phone.try_to_register(SOON).await?;
    assert_eq!((answer.status(), learned(&answer).services.join(" ")), (Some(200), "apns apns.dev fcm".to_owned()));
    assert!(!answer.has(Name::Contact), "nothing is registered by it");
    let proof = "Digest username=\"alice\", realm=\"x\", nonce=\"n\", uri=\"sip:x\", response=\"00000000000000000000000000000000\"";
    let answer = connected.register_once(Some(proof.to_owned()), 300, SOON).await?;
    assert_eq!(answer.status(), Some(200));
    assert_eq!(world.registrar.register_count(), 0);
    world.content()
}

/// One account with a decoy before it, by one address of record after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_decoy_before_the_proof_lets_nobody_guess_faster() -> Outcome {
    let world = World::start().await?;
    let (mut seen, mut limited) = (0, 0);
    for n in 0..40 {
        let mut phone = guesser(&world, "guess");
        phone.settings.aor = world.aor().replace("alice", &format!("x{n}"));
        let connected = Phone::connect(phone.settings.clone()).await.expect("a connection");
        let proof = format!(
            "Digest username=\"decoy{n}\", realm=\"elsewhere\", nonce=\"n\", uri=\"sip:x\", response=\"{:032x}\"\r\n\
             Authorization: Digest username=\"alice\", realm=\"r\", nonce=\"n\", uri=\"sip:x\", response=\"{:032x}\"",
            n, n
        );
        match connected.register_once(Some(proof), 300, SOON).await?.status() {
            Some(503) => limited += 1,
            _ => seen += 1,
        }
    }
    assert!(seen <= 8 && limited >= 32, "{seen} were carried, {limited} were told to wait");
    Ok(())
}
