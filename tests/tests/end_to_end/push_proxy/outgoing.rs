//! Requests that devices begin, with the edge as their one outbound proxy, on a relay of eight shards.

use tests::board::Missed;
use tests::phone::Phone;
use tests::push_phone::{PushPhone, Service};
use tests::wire::Transport;
use tests::world::{SOON, World};

type Outcome = tests::world::Outcome;

/// So many that hardly any shard has none.
const USERS: [(&str, &str); 16] = [
    ("a0", "p"),
    ("a1", "p"),
    ("a2", "p"),
    ("a3", "p"),
    ("a4", "p"),
    ("a5", "p"),
    ("a6", "p"),
    ("a7", "p"),
    ("a8", "p"),
    ("a9", "p"),
    ("aa", "p"),
    ("ab", "p"),
    ("ac", "p"),
    ("ad", "p"),
    ("ae", "p"),
    ("af", "p"),
];

async fn eight_shards() -> Result<(World, Vec<PushPhone>), Missed> {
    let world = World::among(&USERS, |setup| {
        setup.environment.push(("SIPWAKE_SHARDS".to_owned(), "8".to_owned()));
    })
    .await?;
    let (edge, registrar) = (world.relay.edge_uri(), world.registrar.uri(Transport::Tls));
    let phone = |user: (&str, &str)| {
        let service = Service::Fcm(format!("token-of-{}", user.0));
        PushPhone::new(&edge, &registrar, &world.registrar.aor(user.0), user, &world.authority).woken_by(&service)
    };
    let phones = USERS.into_iter().map(phone).collect();
    Ok((world, phones))
}

/// The SIP server gets each request of this account, whoever that is for. It answers OPTIONS, and knows no Carol.
async fn is_proxied(phone: &Phone) -> Outcome {
    for (method, target, status) in [
        ("OPTIONS", "sip:example.test", 200),
        ("MESSAGE", "sip:carol@example.test", 404),
        ("PUBLISH", "sip:x.test", 404),
    ] {
        let answer = phone.request(method, target, SOON).await?;
        assert_eq!(answer.status(), Some(status), "{method} of {}", phone.settings().aor);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_calls_out_on_whatever_shard_its_registration_lives_and_by_another_of_its_names() -> Outcome {
    let (world, phones) = eight_shards().await?;
    for phone in &phones {
        let (device, _) = world.until("a registration", || async { phone.wake(SOON).await.ok() }).await?;
        is_proxied(&device).await?;
        // Which names an account has, its SIP server knows.
        let mut alias = device.settings().clone();
        alias.aor = world.registrar.aor("4930123");
        let alias = device.also(alias);
        is_proxied(&alias).await?;
        // An anonymous From names no account, and so no shard (RFC 3323 §4.1.1.3).
        let mut anonymous = device.settings().clone();
        anonymous.aor = "sip:anonymous@anonymous.invalid".to_owned();
        is_proxied(&device.also(anonymous)).await?;
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_one_connection_each_call_out_by_their_own_registration() -> Outcome {
    let (world, phones) = eight_shards().await?;
    let (first, others) = phones.split_first().expect("there are some");
    let (device, _) = world.until("a registration", || async { first.wake(SOON).await.ok() }).await?;
    let mut accounts = vec![device];
    // As many as one connection may carry, with the first.
    for other in others {
        let account = accounts[0].also(other.settings.clone());
        let registered = async || (account.register(SOON).await.ok()?.status() == Some(200)).then_some(());
        world.until("a registration", registered).await?;
        accounts.push(account);
    }
    for account in &accounts {
        is_proxied(account).await?;
    }
    world.content()
}
