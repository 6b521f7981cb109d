//! Accounts of which the relay never sees the password: `ha1` in its place (RFC 7616 §3.4.2).

use relay::vault::record::Proof;
use relay::vault::{Keyring, Vault};
use serde_json::{Value, json};
use sip::id::InstanceId;
use tests::digest::Algorithm;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::world::{SOON, TOKEN, World, hasty};

use super::Outcome;

/// The body that enables Alice's account by these HA1s, made for `realm`.
fn request(world: &World, realm: &str, algorithms: &[Algorithm]) -> Value {
    let mut ha1 = json!({"realm": realm});
    for algorithm in algorithms {
        ha1[algorithm.name()] = json!(algorithm.ha1("alice", realm, "wonderland"));
    }
    let mut request = world.enable_request(TOKEN);
    let account = request["account"].as_object_mut().expect("an account");
    account.remove("password");
    account.insert("ha1".to_owned(), ha1);
    request
}

#[tokio::test]
async fn an_account_that_is_lent_as_ha1_registers_refreshes_and_rings() -> Outcome {
    // The stand-in offers SHA-256 above MD5; who has only the lower one's HA1 answers that (RFC 8760 §2.4).
    for (algorithms, answered) in [
        (&[Algorithm::Md5, Algorithm::Sha256][..], "algorithm=SHA-256"),
        (&[Algorithm::Sha256], "algorithm=SHA-256"),
        (&[Algorithm::Md5], "algorithm=MD5"),
    ] {
        let world = World::with(|setup| setup.register_expires = "5s".to_owned()).await?;
        let instance = world.enable_as(&request(&world, "example.test", algorithms)).await?;
        let aor = world.aor();
        let refresh = world.registrar.await_registers(&aor, 3, SOON).await?;
        assert_eq!(refresh.status, Some(200), "in one round trip");
        let digest = refresh.request.text(sip::message::Name::Authorization).unwrap_or_default().to_owned();
        assert!(digest.contains(answered) && digest.contains("nc=00000002"), "{answered}");
        world.whole_call(&instance).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_ha1_of_another_realm_answers_no_challenge() -> Outcome {
    let world = World::start().await?;
    let answer = world.api.enable(&request(&world, "elsewhere.test", &[Algorithm::Md5, Algorithm::Sha256])).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert_eq!(world.registrar.registers(&world.aor()).len(), 1, "nothing is sent that cannot be right");
    world.content()
}

/// What is stored of an account as its proof.
async fn stored_proof(world: &World, redis: &RedisServer, id: &str) -> Proof {
    let keyring = Keyring::open(world.relay.setup().keyring.as_deref().expect("a file")).expect("the keyring");
    let vault = Vault::open(&redis.url(), keyring, "a-look").expect("opened");
    let id = InstanceId::parse(id).expect("an id");
    let stored = vault.load(id).await.expect("the store answers").expect("a record");
    vault.open_lent(id, &stored.sealed, |record| record.account.proof.clone()).expect("it opens")
}

#[tokio::test]
async fn a_password_is_never_stored_once_its_server_has_asked_and_what_is_stored_answers_for_it() -> Outcome {
    let (mut world, redis, instance) = World::lent_on_redis().await?;
    let Proof::Derived(all) = stored_proof(&world, &redis, &instance.id).await else { panic!("it is the password") };
    assert_eq!(all.len(), 1);
    assert_eq!(&*all[0].realm, "example.test");
    assert!(all[0].sha256.is_some() && all[0].md5.is_none() && all[0].sha512_256.is_none(), "what was asked for alone");
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.registrar.await_registers(&world.aor(), 4, SOON).await?;
    world.whole_call(&instance).await?;
    world.disable(&instance).await?;
    world.await_contacts(0).await?;
    world.content()
}

#[tokio::test]
async fn a_password_whose_server_was_slow_gives_way_when_it_has_asked() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    world.registrar.script(&world.aor(), &[Behaviour::Refuse(503), Behaviour::Accept]);
    let instance = world.api.enabled(&world.enable_request(TOKEN)).await?;
    let gave_way =
        || async { matches!(stored_proof(&world, &redis, &instance.id).await, Proof::Derived(_)).then_some(()) };
    world.until("the password gives way", gave_way).await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_server_whose_realm_wanders_loses_the_phone_with_a_word_to_its_user_unless_passwords_are_kept() -> Outcome {
    for keeps in [false, true] {
        let (world, redis) = World::on_redis(|setup| {
            hasty(setup);
            setup.store_lines = format!("keep_passwords = {keeps}");
        })
        .await?;
        let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
        assert_eq!(stored_proof(&world, &redis, &instance.id).await.is_password(), keeps);
        world.registrar.change_realm("wandered.test");
        if keeps {
            world.registrar.await_registers(&world.aor(), 4, SOON).await?;
            world.whole_call(&instance).await?;
            continue;
        }
        world.relay.await_log("registration-lost", SOON).await?;
        // Nothing was shown, and so nothing was refused: its server may go back to where it was.
        assert_eq!(world.api.read(&instance).await?.status, 200);
        assert!(!redis.instance_keys().is_empty());
        let told = || async {
            let pushes = world.apns.pushes();
            pushes.iter().any(|push| push.payload["sipwake"]["event"] == "registration-failing").then_some(())
        };
        world.until("the user is told", told).await?;
    }
    Ok(())
}
