//! Calls that the SIP server holds itself: it has the relay wake the devices, and sends the INVITE when one is there.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tests::api_client::{Answer, Instance};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::dns::{Dns, Record};
use tests::phone::Phone;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::registrar::{Behaviour, Registrar, Settings};
use tests::relay_setup::Setup;
use tests::wire::Transport;
use tests::world::{Device, FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, text};
use tests::{apns, fcm};

use super::Outcome;

/// A world at whose SIP server calls wait, and which may wake.
struct Holding {
    world: World,
    key: String,
    /// What it asks for: Alice, for a call of Carol's.
    request: Value,
}

impl Holding {
    async fn start() -> Result<Self, Missed> {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let mut key = String::new();
        let world = World::with(|setup| {
            key = setup.sip_server("pbx-1", &["example.test"]);
            change(setup);
        })
        .await?;
        let call = json!({"from": "sip:carol@example.test", "name": "Carol"});
        let request = json!({"aor": world.aor(), "wait_ms": 15_000, "call": call});
        Ok(Self { world, key, request })
    }

    /// Has Alice's devices woken; the answer.
    async fn ask(&self) -> Result<Answer, Missed> {
        Ok(self.world.api.wake(&self.key, &self.request).await?)
    }

    /// Has Alice's devices woken, and is told that so many of so many are there.
    async fn is_told(&self, awake: u32, known: u32) -> Outcome {
        let answer = self.ask().await?;
        if answer.json() == json!({"awake": awake, "known": known}) && answer.status == 200 {
            Ok(())
        } else {
            Err(Missed::new(format!("{awake} of {known} awake"), answer.text()))
        }
    }

    /// Has Alice's devices woken, and is told this instead.
    async fn is_refused(&self, status: u16, problem: &str) -> Outcome {
        let answer = self.ask().await?;
        if (answer.status, answer.problem().as_deref()) == (status, Some(problem)) {
            Ok(())
        } else {
            Err(Missed::new(format!("{status} {problem}"), format!("{} {}", answer.status, answer.text())))
        }
    }

    /// Has Alice's devices woken; the device that is pushed comes, and is told of as one of so many.
    async fn wakes(&self, device: &impl Device, known: u32) -> Result<(Value, Phone), Missed> {
        let (told, woken) = tokio::join!(self.is_told(1, known), async {
            let push = self.world.push_for(device).await?;
            Ok::<_, Missed>((push, self.world.wake(device).await?))
        });
        told?;
        woken
    }

    /// The device's missed calls are those that these pushes told of.
    async fn is_missed(&self, device: &Instance, pushes: &[Value]) -> Outcome {
        let ids = |calls: &[Value]| calls.iter().map(|call| text(&call["call"])).collect::<BTreeSet<_>>();
        let missed = || async {
            let kept = self.world.kept(device, "missed-calls").await.ok()?;
            (ids(&kept) == ids(pushes)).then_some(())
        };
        self.world.until("the calls are missed", missed).await
    }

    /// The words of the device's timeline that are of calls.
    async fn steps(&self, device: &Instance) -> Result<Vec<String>, Missed> {
        let answer = self.world.api.of("GET", device, "/timeline").await?;
        let steps = answer.json()["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().filter(|step| step["call"].is_string()).map(|step| text(&step["step"])).collect())
    }

    /// Has Alice's devices woken, none of which comes in time.
    async fn nobody_comes(&self) -> Outcome {
        self.is_refused(504, "no-device-in-time").await
    }
}

#[tokio::test]
async fn a_call_that_was_announced_reaches_the_device_that_came_for_it_without_a_second_push() -> Outcome {
    let it = Holding::start().await?;
    let world = &it.world;
    let alice = world.enable().await?;
    let (push, phone) = it.wakes(&alice, 1).await?;
    let sent = world.apns.pushes().remove(0);
    assert_eq!((sent.push_type.as_str(), sent.priority, sent.expiration), ("voip", 10, 0));
    assert_eq!((&push["event"], &push["instance"]), (&json!("call"), &json!(alice.id)));
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    assert_eq!(push["deadline"], json!(push["sent_at"].as_u64().unwrap_or(0) + 30));
    world.await_state(&alice, &push, "ringing").await?;

    let (caller, call) = world.answered_at(&phone).await?;
    world.await_state(&alice, &push, "answered").await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.requests(), 1, "one VoIP push for one call");
    world.content()
}

#[tokio::test]
async fn the_story_of_an_announced_call_that_was_never_sent_tells_that_the_phone_came() -> Outcome {
    let it = Holding::with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let alice = it.world.enable().await?;
    let (push, _phone) = it.wakes(&alice, 1).await?;
    let (relay, path) = (&it.world.relay, format!("/v1/operator/calls/{}", text(&push["call"])));
    let told = || async {
        let answer = relay.operator().json("GET", &path, Some(&relay.setup().operator_token), None).await.ok()?;
        Some(answer.json()["calls"][0].clone()).filter(|told| told["outcome"] == "timed-out")
    };
    let told = it.world.until("the end of the call", told).await?;
    let (why, steps) = (text(&told["why"]), told["steps"].to_string());
    assert!(why.starts_with("the phone came after") && why.ends_with("and the SIP server sent no call"), "{told}");
    assert!(steps.contains("device-attached") && !steps.contains("invite-sent"), "{told}");
    it.world.content()
}

#[tokio::test]
async fn an_announced_call_whose_push_is_refused_is_missed_when_no_invite_follows() -> Outcome {
    let it = Holding::start().await?;
    let alice = it.world.enable().await?;
    it.world.apns.answer_with(TOKEN, [apns::Answer::Error { status: 413, reason: "PayloadTooLarge" }]);
    it.nobody_comes().await?;
    let missed = || async { it.world.kept(&alice, "missed-calls").await.ok().filter(|kept| !kept.is_empty()) };
    let missed = it.world.until("the missed call", missed).await?;
    assert_eq!((missed.len(), &missed[0]["state"]), (1, &json!("timed-out")));
    assert_eq!(it.steps(&alice).await?, ["announced", "push-sent", "push-ended", "timed-out"]);
    it.world.content()
}

#[tokio::test]
async fn an_announced_call_that_was_announced_again_is_over_when_its_push_is_and_the_next_one_is_pushed_anew() -> Outcome
{
    let it = Holding::with(|setup| setup.ring_timeout = "5s".to_owned()).await?;
    let alice = it.world.enable().await?;
    let away = apns::Answer::Unavailable { retry_after: None };
    // The second request comes so much later.
    it.world.apns.answer_with(TOKEN, [apns::Answer::Late(Duration::from_millis(2_500), Box::new(away.clone()))]);
    it.world.apns.answer_all(Some(away));
    let announced_again = async {
        let retried = || async { (it.world.apns.requests() >= 2).then_some(()) };
        it.world.until("the second request", retried).await?;
        it.nobody_comes().await
    };
    let dials_anew = async {
        let has_ended = || async { it.steps(&alice).await.ok()?.iter().any(|step| step == "push-ended").then_some(()) };
        it.world.until("the end of the push", has_ended).await?;
        it.world.apns.answer_all(None);
        it.nobody_comes().await?;
        it.world.push().await
    };
    let (first, again, push) = tokio::join!(it.nobody_comes(), announced_again, dials_anew);
    first?;
    again?;
    it.world.await_state(&alice, &push?, "timed-out").await?;
    it.world.content()
}

#[tokio::test]
async fn a_timeline_tells_an_announcement_and_an_invite_apart() -> Outcome {
    let mut it = Holding::start().await?;
    let alice = it.world.enable().await?;
    it.request["wait_ms"] = json!(1_000);
    it.nobody_comes().await?;
    let pushed = ["announced", "push-sent", "push-ended"];
    assert_eq!(it.steps(&alice).await?, pushed, "no INVITE came, and no caller hears anything");
    let caller = it.world.call()?;
    caller.expect(180, SOON).await?;
    assert_eq!(it.steps(&alice).await?, [&pushed[..], &["invite", "caller-hears-ringing"]].concat());
    it.world.cancel(&caller).await?;
    assert_eq!(it.world.apns.requests(), 1);
    it.world.content()
}

#[tokio::test]
async fn an_invite_that_comes_before_the_device_waits_for_it_without_a_second_push() -> Outcome {
    let mut it = Holding::start().await?;
    let alice = it.world.enable().await?;
    it.request["wait_ms"] = json!(1);
    it.nobody_comes().await?;
    let push = it.world.push().await?;
    let caller = it.world.call()?;
    caller.expect(180, SOON).await?;
    it.world.talks(&caller, &alice).await?;
    it.world.await_state(&alice, &push, "answered").await?;
    assert_eq!(it.world.apns.requests(), 1);
    it.world.content()
}

#[tokio::test]
async fn a_device_that_is_there_already_is_awake_without_a_push() -> Outcome {
    let it = Holding::start().await?;
    let alice = it.world.enable().await?;
    let phone = it.world.wake(&alice).await?;
    it.is_told(1, 1).await?;
    let (caller, call) = it.world.answered_at(&phone).await?;
    it.world.hang_up(&caller, &call).await?;
    assert_eq!(it.world.apns.requests(), 0);
    it.world.content()
}

#[tokio::test]
async fn an_announced_call_that_never_comes_ends_for_the_phone_too() -> Outcome {
    let it = Holding::with(|setup| setup.ring_timeout = "4s".to_owned()).await?;
    let alice = it.world.enable_android().await?;
    let (push, phone) = it.wakes(&alice, 1).await?;
    let ended = it.world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &push["call"]));
    it.world.await_state(&alice, &push, "timed-out").await?;
    assert_eq!(phone.invited(), 0);
    it.world.content()
}

#[tokio::test]
async fn a_caller_who_dials_again_when_nobody_came_is_pushed_again_and_each_call_is_missed() -> Outcome {
    let mut it = Holding::start().await?;
    let alice = it.world.enable().await?;
    it.request["wait_ms"] = json!(300);
    let mut pushes = Vec::new();
    for _ in 0..2 {
        it.nobody_comes().await?;
        pushes.push(it.world.push().await?);
    }
    assert!(pushes[0]["call"] != pushes[1]["call"], "{pushes:?}");
    it.world.await_state(&alice, &pushes[0], "timed-out").await?;
    // Nothing follows: the last one ends, too, long before what the push has said.
    it.world.await_state(&alice, &pushes[1], "timed-out").await?;
    it.is_missed(&alice, &pushes).await?;
    // Somebody who comes and goes is called anew.
    it.request["wait_ms"] = json!(15_000);
    let (_, phone) = it.wakes(&alice, 1).await?;
    drop(phone);
    it.world.await_all_asleep().await?;
    let (push, phone) = it.wakes(&alice, 1).await?;
    let (caller, call) = it.world.answered_at(&phone).await?;
    it.world.await_state(&alice, &push, "answered").await?;
    it.world.hang_up(&caller, &call).await?;
    assert_eq!(it.world.apns.pushes().iter().filter(|push| push.push_type == "voip").count(), 4);
    it.world.content()
}

#[tokio::test]
async fn a_call_whose_server_hangs_up_while_it_is_waited_for_is_over_soon_and_missed() -> Outcome {
    let it = Holding::start().await?;
    let alice = it.world.enable().await?;
    let (waits, push) = tokio::join!(tokio::time::timeout(Duration::from_secs(1), it.ask()), it.world.push());
    assert!(waits.is_err(), "the connection ends without an answer");
    let push = push?;
    it.world.await_state(&alice, &push, "timed-out").await?;
    it.is_missed(&alice, &[push]).await?;
    it.world.content()
}

#[tokio::test]
async fn a_server_that_waits_when_the_relay_begins_to_end_is_told_so_at_once() -> Outcome {
    let mut it = Holding::start().await?;
    it.world.enable().await?;
    it.request["wait_ms"] = json!(30_000);
    let (told, ended) = tokio::join!(it.is_refused(503, "draining"), async {
        it.world.push().await?;
        it.world.relay.terminate(SOON).await
    });
    told?;
    assert!(ended?.success());
    Ok(())
}

#[tokio::test]
async fn nobody_waits_for_an_app_that_is_opened_or_wants_no_calls_any_more() -> Outcome {
    for change in [json!({"presence": "foreground"}), json!({"wake_for": ["message"]})] {
        let it = Holding::start().await?;
        let alice = it.world.enable().await?;
        let (told, changed) = tokio::join!(it.is_refused(404, "unknown-aor"), async {
            let push = it.world.push().await?;
            let changed = it.world.api.change(&alice, &change).await?.status;
            it.world.await_state(&alice, &push, "timed-out").await?;
            Ok::<_, Missed>(changed)
        });
        told?;
        assert_eq!(changed?, 200);
        // Another device is waited for.
        let android = it.world.enable_android().await?;
        it.world.change(&alice, json!({"presence": "background", "wake_for": ["call"]})).await?;
        let (told, phone) = tokio::join!(it.is_told(1, 2), async {
            it.world.push().await?;
            it.world.api.change(&alice, &change).await?;
            it.world.android_push().await?;
            it.world.wake(&android).await
        });
        told?;
        drop(phone?);
    }
    Ok(())
}

#[tokio::test]
async fn the_end_of_another_call_lets_go_of_nobody_who_waits_for_the_device() -> Outcome {
    for declines in [false, true] {
        let it = Holding::start().await?;
        let alice = it.world.enable().await?;
        let (bob, bobs) = it.world.call_and_push().await?;
        let (told, phone) = tokio::join!(it.is_told(1, 1), async {
            let carols = it.world.push().await?;
            assert_eq!(carols["from"], json!("sip:carol@example.test"));
            let end = if declines {
                it.world.decline(&bob, &alice, &bobs).await.map(|()| "declined")
            } else {
                it.world.cancel(&bob).await.map(|()| "cancelled")
            };
            it.world.await_state(&alice, &bobs, end?).await?;
            assert_eq!(it.world.state(&alice, &carols).await?, "ringing", "it goes on");
            it.world.wake(&alice).await
        });
        told?;
        let carol = it.world.call_with(&CallOptions::default().from("sip:carol@example.test"))?;
        phone?.next_invite(SOON).await?;
        carol.cancel().await?;
        assert_eq!(it.world.apns.requests(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn two_callers_who_are_announced_have_a_push_and_a_time_each() -> Outcome {
    let mut it = Holding::with(|setup| setup.ring_timeout = "5s".to_owned()).await?;
    let alice = it.world.enable().await?;
    let carols = it.request.clone();
    (it.request["call"], it.request["wait_ms"]) = (json!({"from": "sip:bob@example.test"}), json!(1));
    it.nobody_comes().await?;
    let bobs = it.world.push().await?;
    // Carol calls some seconds after Bob, and her call may ring as much longer.
    tokio::time::sleep(Duration::from_secs(3)).await;
    it.request = carols;
    let (told, phone) = tokio::join!(it.is_told(1, 1), async {
        let push = it.world.push().await?;
        assert_eq!((&push["from"], push["call"] == bobs["call"]), (&json!("sip:carol@example.test"), false));
        // Bob has given up, which a SIP server cannot tell; his call's time ends.
        it.world.await_state(&alice, &bobs, "timed-out").await?;
        it.world.wake(&alice).await
    });
    told?;
    phone?;
    assert_eq!(it.world.apns.requests(), 2);
    it.world.content()
}

#[tokio::test]
async fn who_declines_an_announced_call_is_not_waited_for_and_its_invite_is_declined() -> Outcome {
    let it = Holding::start().await?;
    let alice = it.world.enable().await?;
    let (in_vain, declined) = tokio::join!(it.nobody_comes(), async {
        let push = it.world.push().await?;
        it.world.api.decline(&alice, &text(&push["call"])).await.map_err(Missed::from)
    });
    in_vain?;
    assert_eq!(declined?.status, 204);
    let caller = it.world.call()?;
    caller.expect(603, SOON).await?;
    assert_eq!(it.world.apns.requests(), 1);
    it.world.content()
}

#[tokio::test]
async fn every_device_of_the_address_is_woken_and_the_first_that_comes_is_answered() -> Outcome {
    let it = Holding::start().await?;
    let android = it.world.enable_android().await?;
    let apple = it.world.enable().await?;
    let (push, _phone) = it.wakes(&android, 2).await?;
    assert_eq!(push["instance"], json!(android.id));
    assert_eq!(it.world.push().await?["instance"], json!(apple.id));
    // The same address, asked for again before the INVITE: nobody is pushed twice.
    it.is_told(1, 2).await?;
    assert_eq!((it.world.apns.requests(), it.world.fcm.requests()), (1, 1));
    it.world.content()
}

#[tokio::test]
async fn nobody_is_woken_whom_the_relay_or_the_server_does_not_know_or_may_not_wake() -> Outcome {
    let it = Holding::start().await?;
    let alice = it.world.enable().await?;
    for (aor, key, status) in [
        ("sip:nobody@example.test", it.key.as_str(), 404),
        ("sip:alice@example.org", it.key.as_str(), 403),
        ("sip:alice@example.test", "some-other-key-0123456789", 401),
    ] {
        assert_eq!(it.world.api.wake(key, &json!({"aor": aor})).await?.status, status, "{aor}");
    }
    it.world.disable(&alice).await?;
    assert_eq!(it.ask().await?.status, 404, "it is not kept that there was one");
    assert_eq!(it.world.apns.requests(), 0);
    it.world.content()
}

#[tokio::test]
async fn a_device_that_cannot_be_reached_is_not_waited_for() -> Outcome {
    let it = Holding::start().await?;
    let iphone = it.world.enable().await?;
    it.world.apns.answer_with(TOKEN, [apns::Answer::Gone { timestamp: u64::MAX }]);
    it.nobody_comes().await?;
    it.world.await_gone(&iphone).await?;
    let android = it.world.enable_android().await?;
    it.world.fcm.answer_with(FCM_TOKEN, [fcm::Answer::Unregistered]);
    it.nobody_comes().await?;
    it.world.await_gone(&android).await?;
    it.world.enable_other().await?;
    let (caller, push) = it.world.call_and_push().await?;
    assert_eq!(push["event"], "call", "a call of its own");
    caller.cancel().await
}

#[tokio::test]
async fn a_device_that_gets_no_call_is_neither_counted_nor_woken() -> Outcome {
    let it = Holding::start().await?;
    let world = &it.world;
    let unknown = || it.is_refused(404, "unknown-aor");
    // Its SIP server has not said yet whether its credentials are right.
    world.registrar.behave(&world.aor(), Behaviour::RetryAfter(3_600));
    let unproven = world.api.enable(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!(unproven.status, 202, "{}", unproven.text());
    unknown().await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.disable(&world.api.enabled(&world.enable_request(OTHER_TOKEN)).await?).await?;
    // It is to be woken for messages alone.
    let mut request = world.enable_request(TOKEN);
    request["wake_for"] = json!(["message"]);
    let for_messages = world.enable_as(&request).await?;
    unknown().await?;
    world.disable(&for_messages).await?;
    // Its app is open and registers by itself, whether it has a connection to the edge or not.
    let open = world.enable().await?;
    assert_eq!(world.api.change(&open, &json!({"presence": "foreground"})).await?.status, 200);
    unknown().await?;
    let phone = world.wake(&open).await?;
    unknown().await?;
    drop(phone);
    assert_eq!((world.apns.requests(), world.fcm.requests()), (0, 0));

    // Beside any of these another one is woken, and is all that there is.
    let android = world.enable_android().await?;
    it.wakes(&android, 1).await?;
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

#[tokio::test]
async fn a_device_whose_password_was_changed_is_not_waited_for() -> Outcome {
    let it = Holding::start().await?;
    let world = &it.world;
    let old = world.enable().await?;
    world.registrar.change_password("alice", "looking glass");
    let mut request = world.android_enable_request(FCM_TOKEN);
    request["account"]["password"] = json!("looking glass");
    let android = world.enable_as(&request).await?;
    let retries = || async {
        let answer = world.api.read(&old).await.ok()?;
        (answer.json()["registration"]["state"] == "retrying").then_some(())
    };
    world.until("its registration is retried", retries).await?;
    it.wakes(&android, 1).await?;
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

/// Alice's account, lent by somebody who calls it so at a registrar of his own.
fn lent_elsewhere(world: &World, stranger: &Registrar, by_proxy: bool) -> Value {
    let elsewhere = format!("sip:localhost:{};transport=tls", stranger.address(Transport::Tls).port());
    let mut request = world.android_enable_request(FCM_TOKEN);
    let place = if by_proxy { "outbound_proxy" } else { "registrar" };
    request["account"][place] = json!(elsewhere);
    request
}

async fn registrar(world: &World, domain: &str) -> Result<Registrar, Missed> {
    let certified = Some(vec![domain.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()]);
    let authority = Some(world.authority.clone());
    Ok(Registrar::start(Settings { domain: domain.into(), authority, certified, ..Settings::default() }).await?)
}

#[tokio::test]
async fn an_account_that_a_stranger_calls_so_at_his_own_registrar_is_neither_woken_nor_counted_nor_told_the_caller()
-> Outcome {
    let mut it = Holding::start().await?;
    it.request["wait_ms"] = json!(1);
    let stranger = registrar(&it.world, "example.test").await?;
    for by_proxy in [false, true] {
        let lent = it.world.enable_as(&lent_elsewhere(&it.world, &stranger, by_proxy)).await?;
        assert_eq!(stranger.contacts(&it.world.aor()).len(), 1, "it is registered there");
        it.is_refused(404, "unknown-aor").await?;
        // Not by being there either.
        let phone = it.world.wake(&lent).await?;
        it.is_refused(404, "unknown-aor").await?;
        let own = it.world.enable().await?;
        it.nobody_comes().await?;
        assert_eq!(it.world.push().await?["instance"], own.id.as_str());
        drop(phone);
        for instance in [&lent, &own] {
            it.world.disable(instance).await?;
        }
    }
    assert_eq!(it.world.fcm.requests(), 0, "the stranger's device was told nothing");
    Ok(())
}

#[tokio::test]
async fn a_registration_at_an_address_of_the_aors_domain_is_woken_without_being_named() -> Outcome {
    let dns = Dns::start(vec![Record::address("alices.test", "127.0.0.1")]).await?;
    let mut key = String::new();
    let world = World::with(|setup| {
        setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
        key = setup.sip_server_at("pbx-1", &["*"], &[]);
    })
    .await?;
    for (domain, status) in [("alices.test", 504), ("example.test", 404)] {
        let server = registrar(&world, domain).await?;
        let mut lent = lent_elsewhere(&world, &server, false);
        lent["account"]["aor"] = json!(format!("sip:alice@{domain}"));
        let instance = world.enable_as(&lent).await?;
        let body = json!({"aor": format!("sip:alice@{domain}"), "wait_ms": 1});
        let answer = world.api.wake(&key, &body).await?;
        assert_eq!(answer.status, status, "{domain}: {}", answer.text());
        world.disable(&instance).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lent_nothing_is_woken_for_an_announced_call_and_gets_it_without_a_second_push() -> Outcome {
    let it = Holding::start().await?;
    let world = &it.world;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let learned = phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let (push, device) = it.wakes(&phone, 1).await?;
    assert_eq!((text(&push["event"]), Some(text(&push["instance"]))), ("call".to_owned(), learned.purr));
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    let (caller, call) = world.answered_at(&device).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.fcm.count(), 1, "one push for one call");

    // It is unregistered: nobody is known any more.
    device.unregister(SOON).await?;
    it.is_refused(404, "unknown-aor").await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_phone_that_lent_nothing_is_still_woken_for_an_announced_call() -> Outcome {
    let redis = RedisServer::start();
    let mut it = Holding::with(|setup| setup.store = redis.url()).await?;
    let phone = it.world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    let stored = || async { redis.keys().iter().any(|key| key.starts_with("sipwake:i:")).then_some(()) };
    it.world.until("a stored record", stored).await?;
    it.world.relay.kill_9().await?;
    it.world.relay.restart().await?;
    it.request["wait_ms"] = json!(1);
    it.world.until("a registration that was adopted", || async { it.nobody_comes().await.ok() }).await?;
    assert_eq!(it.world.android_push().await?["event"], "call");
    it.world.content()
}
