//! Accounts of which the relay never sees the password: `ha1` in its place (RFC 7616 §3.4.2).

use relay::vault::record::Proof;
use relay::vault::{Keyring, Vault};
use serde_json::{Value, json};
use sip::id::InstanceId;
use tests::digest::Algorithm;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::scene::{OTHER_TOKEN, SOON, Scene, TOKEN};

use super::Outcome;
use super::registrations::rings;

/// The body that enables Alice's account by these HA1s, made for `realm`.
fn wish(scene: &Scene, realm: &str, algorithms: &[Algorithm]) -> Value {
    let mut ha1 = json!({"realm": realm});
    for algorithm in algorithms {
        ha1[algorithm.name()] = json!(algorithm.ha1("alice", realm, "wonderland"));
    }
    let mut wish = scene.wish(TOKEN);
    let account = wish["account"].as_object_mut().expect("an account");
    account.remove("password");
    account.insert("ha1".to_owned(), ha1);
    wish
}

#[tokio::test]
async fn an_account_that_is_lent_as_ha1_registers_refreshes_and_rings() -> Outcome {
    // The stand-in offers SHA-256 above MD5; who has only the lower one's HA1 answers that (RFC 8760 §2.4).
    for (algorithms, answered) in [
        (&[Algorithm::Md5, Algorithm::Sha256][..], "algorithm=SHA-256"),
        (&[Algorithm::Sha256], "algorithm=SHA-256"),
        (&[Algorithm::Md5], "algorithm=MD5"),
    ] {
        let scene = Scene::with(|setup| setup.register_expires = "5s".to_owned()).await?;
        let instance = scene.enable_as(&wish(&scene, "example.test", algorithms)).await?;
        let aor = scene.aor();
        let refresh = scene.registrar.await_registers(&aor, 3, SOON).await?;
        assert_eq!(refresh.status, Some(200), "in one round trip");
        let digest = refresh.request.text(sip::message::Name::Authorization).unwrap_or_default().to_owned();
        assert!(digest.contains(answered) && digest.contains("nc=00000002"), "{answered}");
        rings(&scene, &instance).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_ha1_of_another_realm_answers_no_challenge() -> Outcome {
    let scene = Scene::start().await?;
    let answer = scene.api.enable(&wish(&scene, "elsewhere.test", &[Algorithm::Md5, Algorithm::Sha256])).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert_eq!(scene.registrar.registers(&scene.aor()).len(), 1, "nothing is sent that cannot be right");
    scene.content()
}

/// What is stored of an account as its proof.
async fn stored_proof(scene: &Scene, redis: &RedisServer, id: &str) -> Proof {
    let keyring = Keyring::open(scene.relay.setup().keyring.as_deref().expect("a file")).expect("the keyring");
    let vault = Vault::open(&redis.url(), keyring, "a-look").expect("opened");
    let id = InstanceId::parse(id).expect("an id");
    let stored = vault.load(id).await.expect("the store answers").expect("a record");
    vault.open_lent(id, &stored.sealed, |record| record.account.proof.clone()).expect("it opens")
}

#[tokio::test]
async fn a_password_is_never_stored_once_its_server_has_asked_and_what_is_stored_answers_for_it() -> Outcome {
    let redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let instance = scene.enable().await?;
    let Proof::Derived(all) = stored_proof(&scene, &redis, &instance.id).await else { panic!("it is the password") };
    assert_eq!(all.len(), 1);
    assert_eq!(&*all[0].realm, "example.test");
    assert!(all[0].sha256.is_some() && all[0].md5.is_none() && all[0].sha512_256.is_none(), "what was asked for alone");
    scene.relay.kill_9().await?;
    scene.relay.restart().await?;
    scene.registrar.await_registers(&scene.aor(), 4, SOON).await?;
    rings(&scene, &instance).await?;
    assert_eq!(scene.api.disable(&instance).await?.status, 200);
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    scene.content()
}

#[tokio::test]
async fn a_password_whose_server_was_slow_gives_way_when_it_has_asked() -> Outcome {
    let redis = RedisServer::start();
    let scene = Scene::with(|setup| setup.store = redis.url()).await?;
    scene.registrar.script(&scene.aor(), &[Behaviour::Refuse(503), Behaviour::Accept]);
    let instance = scene.api.enabled(&scene.wish(TOKEN)).await?;
    let gave_way =
        || async { matches!(stored_proof(&scene, &redis, &instance.id).await, Proof::Derived(_)).then_some(()) };
    scene.until("the password gives way", gave_way).await?;
    rings(&scene, &instance).await
}

#[tokio::test]
async fn a_server_whose_realm_wanders_ends_the_lease_with_a_word_to_its_user_unless_passwords_are_kept() -> Outcome {
    for keeps in [false, true] {
        let redis = RedisServer::start();
        let scene = Scene::with(|setup| {
            (setup.store, setup.register_expires) = (redis.url(), "5s".to_owned());
            setup.store_lines = format!("keep_passwords = {keeps}");
            setup.minutes = 0.001;
        })
        .await?;
        let wish = scene.wish_for(json!({
            "call_push": {"provider": "apns", "token": TOKEN}, "alert_push": {"provider": "apns", "token": OTHER_TOKEN},
        }));
        let instance = scene.enable_as(&wish).await?;
        assert_eq!(stored_proof(&scene, &redis, &instance.id).await.is_password(), keeps);
        scene.registrar.change_realm("wandered.test");
        if keeps {
            scene.registrar.await_registers(&scene.aor(), 4, SOON).await?;
            rings(&scene, &instance).await?;
            continue;
        }
        let told = || async {
            let pushes = scene.apns.pushes();
            pushes.iter().any(|push| push.payload["sipwake"]["event"] == "registration-lost").then_some(())
        };
        scene.until("the user is told", told).await?;
        let gone = || async { (scene.api.read(&instance).await.ok()?.status == 404).then_some(()) };
        scene.until("the instance is gone", gone).await?;
        scene.until("nothing is left", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    }
    Ok(())
}
