//! Accounts of which the relay never sees the password: `ha1` in its place (RFC 7616 §3.4.2).

use serde_json::{Value, json};
use tests::digest::Algorithm;
use tests::world::{SOON, TOKEN, World};

use super::Outcome;

/// The body that enables Alice's account by these HA1s, made for `realm`.
fn wish(world: &World, realm: &str, algorithms: &[Algorithm]) -> Value {
    let mut ha1 = json!({"realm": realm});
    for algorithm in algorithms {
        ha1[algorithm.name()] = json!(algorithm.ha1("alice", realm, "wonderland"));
    }
    let mut wish = world.wish(TOKEN);
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
        let world = World::with(|setup| setup.register_expires = "5s".to_owned()).await?;
        let instance = world.enable_as(&wish(&world, "example.test", algorithms)).await?;
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
    let answer = world.api.enable(&wish(&world, "elsewhere.test", &[Algorithm::Md5, Algorithm::Sha256])).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert_eq!(world.registrar.registers(&world.aor()).len(), 1, "nothing is sent that cannot be right");
    world.content()
}
