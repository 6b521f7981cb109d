//! Registrations as Kamailio asks for them when it is told to: two digests, odd challenges, nonces that are counted or used
//! once, redirections, a busy moment, other Contacts of the account.

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::digest::Fields;
use tests::kamailio::Manner;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

fn plan(manner: Manner) -> Plan {
    Plan { manner, register_expires: "3s", ..Plan::over(Transport::Udp) }
}

/// Waits until so many REGISTERs came, and gives the digests of all: empty where there was none.
async fn digests(world: &World, count: usize) -> Vec<Option<Fields>> {
    let until = std::time::Instant::now() + SOON;
    loop {
        let asked = world.registrar.asked();
        if asked.len() >= count {
            return asked.iter().map(|value| Fields::parse(value)).collect();
        }
        assert!(std::time::Instant::now() < until, "{count} REGISTERs: {asked:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn field<'a>(digest: &'a Option<Fields>, name: &str) -> &'a str {
    digest.as_ref().and_then(|digest| digest.get(name)).unwrap_or_default()
}

/// An account that is registered at a Kamailio that has asked for credentials.
struct Registered {
    world: World,
    instance: Instance,
    /// The URI of its Contact.
    contact: String,
    /// The digest of each REGISTER so far.
    asked: Vec<Option<Fields>>,
}

impl Registered {
    /// At a Kamailio of this manner, after so many REGISTERs.
    async fn after(manner: Manner, registers: usize) -> Result<Self, Missed> {
        let (world, instance) = World::real_and_lent(plan(manner)).await?;
        let contact = world.location().await?[0].uri.clone();
        let asked = digests(&world, registers).await;
        Ok(Self { world, instance, contact, asked })
    }

    /// It has kept its Contact; push ends, and the world.
    async fn end(self) -> Outcome {
        same_contact(&self.world, &self.contact).await?;
        self.world.farewell(&self.instance).await
    }
}

/// One Contact of ours, the same as before.
async fn same_contact(world: &World, uri: &str) -> Outcome {
    let contacts = world.location().await?;
    assert_eq!(contacts.iter().map(|it| it.uri.as_str()).collect::<Vec<_>>(), [uri]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_and_a_registrar_that_both_ask_are_both_answered_and_a_refresh_is_one_round_trip() -> Outcome {
    // RFC 3261 §22.3: 407 of the proxy's realm and 401 of the registrar's in one registration.
    let it = Registered::after(Manner::ProxyAsksToo, 5).await?;
    let asked = &it.asked;
    assert!(asked[..2].iter().all(Option::is_none), "neither answer is known before it is asked for");
    // The third REGISTER carried both; the fourth and the fifth are refreshes, with rising counts.
    let counts: Vec<&str> = asked[2..5].iter().map(|it| field(it, "nc")).collect();
    assert_eq!(counts, ["00000001", "00000002", "00000003"]);
    it.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_nobody_knows_is_passed_over_for_the_one_below_it() -> Outcome {
    // RFC 8760 §2.4.
    let it = Registered::after(Manner::OddChallengeFirst, 2).await?;
    let asked = &it.asked;
    assert_ne!(field(&asked[1], "nonce"), "odd");
    it.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_counted_are_used_again_with_a_count_that_rises() -> Outcome {
    // RFC 7616 §3.4: Kamailio refuses a count that it has seen.
    let it = Registered::after(Manner::CountsNonces, 5).await?;
    let asked = &it.asked;
    assert!(asked[0].is_none());
    let nonce = field(&asked[1], "nonce");
    for (at, digest) in asked[1..5].iter().enumerate() {
        assert_eq!((field(digest, "nonce"), field(digest, "nc")), (nonce, format!("{:08x}", at + 1).as_str()));
    }
    it.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_that_are_used_once_are_replaced_whenever_they_are_stale() -> Outcome {
    // RFC 7616 §3.3: stale, with the next nonce; the registration stands all the while.
    let it = Registered::after(Manner::OneTimeNonces, 6).await?;
    let asked = &it.asked;
    // First, its challenge answered; then each refresh with the old nonce and the new one.
    let nonces: Vec<&str> = asked[1..6].iter().map(|it| field(it, "nonce")).collect();
    assert_eq!(nonces[0], nonces[1]);
    assert_ne!(nonces[1], nonces[2]);
    assert_eq!(nonces[2], nonces[3]);
    assert_ne!(nonces[3], nonces[4]);
    it.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_qop_is_answered_in_its_own_way() -> Outcome {
    // RFC 7616 §3.4, for servers of RFC 2069.
    let it = Registered::after(Manner::WithoutQop, 3).await?;
    let asked = &it.asked;
    assert_eq!((field(&asked[1], "qop"), field(&asked[1], "nc")), ("", ""));
    assert_eq!(field(&asked[2], "nonce"), field(&asked[1], "nonce"), "a refresh is one round trip here, too");
    it.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_that_has_moved_is_not_followed_to_where_nobody_allowed() -> Outcome {
    // RFC 3261 §8.1.3.4; the account itself is where a user says that its registrar has moved.
    let world = World::real(plan(Manner::Moved)).await?;
    let answer = world.api.enable(&world.new_enable_request()).await?;
    assert_eq!((answer.status, &answer.json()["sip_status"]), (422, &json!(302)), "{}", answer.text());
    assert_eq!((digests(&world, 2).await.len(), world.location().await?.len()), (2, 0));
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_when_it_said_so() -> Outcome {
    // RFC 3261 §21.5.4, §20.33.
    let world = World::real(plan(Manner::BusyOnce(17))).await?;
    let answer = world.api.enable(&world.new_enable_request()).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["registration"]["status"], 503, "{}", answer.text());
    let began = std::time::Instant::now();
    world.registrar.await_location(&world.registrar.user, 1, SOON * 4).await?;
    assert!(began.elapsed() >= std::time::Duration::from_secs(16), "{:?}", began.elapsed());
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lifetime_is_that_of_our_own_contact_among_many() -> Outcome {
    // RFC 3261 §10.2.4.
    let world = World::real(Plan::over(Transport::Tls)).await?;
    for (number, expires) in [(1, 45), (2, 3000), (3, 60)] {
        let contact = format!("sip:desk{number}@127.0.0.1:5{number}00");
        world.registrar.add(&world.registrar.user, &contact, expires).await?;
    }
    world.await_location(3).await?;
    let instance = world.lend_own().await?;
    assert_eq!(instance.answer["registration"]["expires_in_s"], json!(600), "{}", instance.answer);
    world.leave_last(&instance).await?;
    assert_eq!(world.location().await?.len(), 3, "the others are left alone");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registrar_tells_beside_the_registration_does_no_harm() -> Outcome {
    // RFC 3608 §5, RFC 7315 §4.1.
    let (world, instance) = World::real_and_lent(plan(Manner::TellsMore)).await?;
    digests(&world, 3).await;
    assert_eq!(world.api.read(&instance).await?.json()["registration"]["state"], Value::from("registered"));
    world.farewell(&instance).await
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_never_pile_up_however_often_the_relay_is_killed() -> Outcome {
    // RFC 3261 §10.3: the same Contact, whatever the registrar makes of `+sip.instance` (RFC 5626 §6).
    let (mut world, instance) = World::real_and_lent(Plan { redis: true, ..Plan::over(Transport::Udp) }).await?;
    let contact = world.location().await?[0].uri.clone();
    for _ in 0..2 {
        let before = world.registrar.asked().len();
        world.relay.kill_9().await?;
        world.restart().await?;
        let asked = digests(&world, before + 2).await;
        assert!(asked.last().is_some_and(Option::is_some), "registered anew");
        same_contact(&world, &contact).await?;
    }
    world.farewell(&instance).await
}
