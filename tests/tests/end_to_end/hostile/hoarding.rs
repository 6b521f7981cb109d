//! Whoever wants to keep more here than anybody needs.

use serde_json::json;
use tests::push_phone::{Service, sleep};
use tests::world::{SOON, TOKEN, World};

type Outcome = tests::world::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn one_account_has_so_many_instances_and_a_token_again_takes_its_earlier_place() -> Outcome {
    let world = World::with(|setup| setup.further.push_str("\n[limits]\ninstances_per_account = 5\n")).await?;
    let mut kept = Vec::new();
    for n in 0..9 {
        let answer = world.api.enable(&world.enable_request(&format!("{n:064x}"))).await?;
        let expected = if n < 5 { 201 } else { 429 };
        assert_eq!(answer.status, expected, "{n}: {}", answer.text());
        if n < 5 {
            kept.push(world.enable_request(&format!("{n:064x}")));
        } else {
            assert!(answer.headers.contains_key("retry-after"));
        }
    }
    // However its address is written.
    let mut spelt = world.enable_request(TOKEN);
    spelt["account"]["aor"] = json!(world.aor().replace("alice", "%61lice"));
    assert_eq!(world.api.enable(&spelt).await?.status, 429);
    for request in &kept {
        assert_eq!(world.api.enable(request).await?.status, 201, "the same token again");
    }
    world.await_metric("sipwake_limits_total{limit=\"instances-account\"}", 5.0).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_registrations_that_pass_through_and_renews_them_all() -> Outcome {
    let users: Vec<(String, String)> = (0..6).map(|n| (format!("user{n}"), format!("password-{n}-long"))).collect();
    let named: Vec<(&str, &str)> = users.iter().map(|(user, password)| (&**user, &**password)).collect();
    let limits = "\n[limits]\nregistrations_per_source = 4\n";
    let world = World::among(&named, |setup| setup.further.push_str(limits)).await?;
    let phone_of = |n: usize| {
        let mut phone = world.push_phone(&Service::Fcm(format!("fcm-device:{n}")));
        phone.settings.aor = world.registrar.aor(&users[n].0);
        (phone.settings.username, phone.settings.password) = users[n].clone();
        phone
    };
    let phones: Vec<_> = (0..6).map(phone_of).collect();
    for round in ["first", "again"] {
        for (n, phone) in phones.iter().enumerate() {
            let (phone, answer) = phone.try_to_register(SOON).await?;
            let expected = if n < 4 { 200 } else { 503 };
            assert_eq!(answer.status(), Some(expected), "{round}, {n}");
            if n >= 4 {
                assert!(answer.has(sip::message::Name::RetryAfter));
            }
            sleep(phone);
        }
    }
    world.await_metric("sipwake_push_registrations", 4.0).await?;
    world.content()
}
