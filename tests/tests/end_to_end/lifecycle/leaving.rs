//! A node leaves while calls wait with it, and meanwhile something is done with its instances at the node that has taken them over.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::api_client::{ApiClient, Instance};
use tests::board::Missed;
use tests::caller::Caller;
use tests::fcm::Answer::{Accept, Late, Unregistered};
use tests::phone::Phone;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::relay_process::RelayProcess;
use tests::world::{FCM_TOKEN, SOON, World, google};

use super::Outcome;
use super::nodes::two_nodes_with;

/// A token that the phone gets later.
const NEW_FCM_TOKEN: &str = "another-token-of-the-phone";

/// Two nodes; the first one leaves as soon as its calls wait.
struct Leaving {
    world: World,
    other: RelayProcess,
    _redis: RedisServer,
}

impl Leaving {
    async fn soon() -> Result<Self, Missed> {
        let redis = RedisServer::start();
        let (world, other) = two_nodes_with(&redis, |_| {}).await?;
        Ok(Self { world, other, _redis: redis })
    }

    /// Bob calls, and a phone is pushed: the call's id.
    async fn call(&self, device: &Instance) -> Result<(Caller, String), Missed> {
        let caller = self.world.call()?;
        let push = self.world.push_for(device).await?;
        caller.expect(180, SOON).await?;
        Ok((caller, push["call"].as_str().unwrap_or_default().to_owned()))
    }

    /// Does `work` when the other node has taken so many instances over, while the first one waits for the end of its calls.
    async fn meanwhile(&self, instances: f64, work: impl AsyncFnOnce(ApiClient) -> Outcome) -> Outcome {
        let at_the_other = async {
            let registered = "sipwake_instances{state=\"registered\"}";
            let has_all = || async { (self.other.metric(registered).await == Some(instances)).then_some(()) };
            self.world.until("another node has all", has_all).await?;
            work(self.other.api()).await
        };
        let (left, done) = tokio::join!(self.world.relay.terminate(SOON * 2), at_the_other);
        done?;
        assert!(left?.success());
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Outcome {
        let pid =
            Pid::from_raw(self.world.relay.pid().cast_signed()).ok_or_else(|| Missed::new("a process", "none"))?;
        kill_process(pid, signal).map_err(|error| Missed::new("a signal", error.to_string()))
    }
}

/// How the other node says that a call stands.
async fn state_of(there: &ApiClient, instance: &Instance, call: &str) -> Result<(u16, Value), Missed> {
    let answer = there.call(instance, call).await?;
    Ok((answer.status, answer.json()["state"].clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_at_a_node_that_leaves_is_asked_of_and_declined_at_any_other() -> Outcome {
    let it = Leaving::soon().await?;
    let phone = it.world.enable_android().await?;
    let (caller, call) = it.call(&phone).await?;
    it.meanwhile(1.0, async |there| {
        assert_eq!(state_of(&there, &phone, &call).await?, (200, json!("ringing")));
        let stranger = Instance { secret: "x".repeat(43), ..phone.clone() };
        assert_eq!(there.call(&stranger, &call).await?.status, 401);
        let unknown = format!("{}{}", &call[..call.len() - 1], if call.ends_with('0') { '1' } else { '0' });
        assert_eq!(there.call(&phone, &unknown).await?.status, 404, "nobody has it");
        it.signal(Signal::STOP)?;
        let unheard = there.call(&phone, &call).await?;
        it.signal(Signal::CONT)?;
        assert_eq!((unheard.status, unheard.problem().as_deref()), (503, Some("draining")), "nobody can say");
        assert_eq!(there.progress(&phone, &call).await?.status, 204);
        assert_eq!(there.decline(&phone, &call).await?.status, 204);
        caller.expect(603, SOON).await?;
        Ok(())
    })
    .await?;
    assert_eq!(state_of(&it.other.api(), &phone, &call).await?.0, 404, "it went with its node");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_has_the_new_owner_answer_what_it_cannot_itself() -> Outcome {
    let it = Leaving::soon().await?;
    let phone = it.world.enable_android().await?;
    // This one's SIP server says nothing to the other node: so the first one waits for it, and its API is open.
    it.world.lend("carol").await?;
    let carol = it.world.registrar.aor("carol");
    it.world.registrar.behave(&carol, Behaviour::Silence);
    let here = it.world.relay.setup().api();
    it.meanwhile(1.0, async |there| {
        let changed = here.change(&phone, &json!({"presence": "foreground"})).await?;
        assert_eq!((changed.status, &changed.json()["presence"]), (200, &json!("foreground")), "{}", changed.text());
        assert_eq!(there.read(&phone).await?.json()["presence"], "foreground");
        let changed = here.change(&phone, &json!({"presence": "background"})).await?;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let registered = "sipwake_instances{state=\"registered\"}";
        let is_back = || async { (it.other.metric(registered).await == Some(1.0)).then_some(()) };
        it.world.until("registered again, by the other node", is_back).await?;
        let (caller, call) = it.call(&phone).await?;
        assert_eq!(state_of(&here, &phone, &call).await?, (200, json!("ringing")), "its call came to the other node");
        assert_eq!(here.decline(&phone, &call).await?.status, 204);
        caller.expect(603, SOON).await?;
        let receipt = here.disable(&phone).await?;
        assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &json!(true)), "{}", receipt.text());
        assert!(it.world.relay.is_running());
        it.world.registrar.behave(&carol, Behaviour::Accept);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_was_disabled_elsewhere_hears_nothing_more_from_a_node_that_leaves() -> Outcome {
    let it = Leaving::soon().await?;
    let phone = it.world.enable_android().await?;
    let (caller, _) = it.call(&phone).await?;
    let mut pushed = 0;
    it.meanwhile(1.0, async |there| {
        let receipt = there.disable(&phone).await?;
        assert_eq!(receipt.status, 200, "{}", receipt.text());
        assert!(it.world.relay.is_running());
        // The second copy of a push comes after 5 s.
        pushed = it.world.fcm.count();
        assert_eq!(caller.final_response(SOON).await?.status(), Some(480));
        Ok(())
    })
    .await?;
    assert_eq!(it.world.fcm.count(), pushed, "{:?}", it.world.fcm.pushes());
    it.world.await_contacts(0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_on_at_a_node_that_leaves_for_the_other_phone_of_one_that_was_disabled_elsewhere() -> Outcome {
    let it = Leaving::soon().await?;
    let (wiped, phone) = (it.world.enable_android().await?, it.world.enable().await?);
    let (caller, _) = it.call(&phone).await?;
    it.meanwhile(2.0, async |there| {
        assert_eq!(there.disable(&wiped).await?.status, 200);
        let refused = Phone::connect(it.world.device(&wiped)).await?.register(SOON).await?;
        assert!(refused.status().is_some_and(|status| status >= 400), "{refused:?}");
        let (_phone, call) = it.world.wake_to_call(&phone).await?;
        it.world.answer(&caller, &call).await?;
        it.world.hang_up(&caller, &call).await
    })
    .await?;
    assert!(it.world.fcm.pushes().iter().all(|push| push.payload["event"] == "call"), "{:?}", it.world.fcm.pushes());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_leaves_hears_of_an_exchanged_token_wipes_nothing_that_another_has() -> Outcome {
    let it = Leaving::soon().await?;
    let phone = it.world.enable_android().await?;
    it.world.fcm.answer_with(FCM_TOKEN, [Late(Duration::from_secs(8), Box::new(Unregistered))]);
    let caller = it.world.call()?;
    assert!(it.world.fcm.wait_for_requests(1, SOON).await);
    it.meanwhile(1.0, async |there| {
        let changed = there.change(&phone, &json!({"device": {"call_push": google(NEW_FCM_TOKEN)}})).await?;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let push = it.world.google_push().await?;
        assert_eq!(
            (&*push.token, &push.payload["event"]),
            (NEW_FCM_TOKEN, &json!("call")),
            "the call goes to the present one"
        );
        it.world.cancel(&caller).await
    })
    .await?;
    assert_eq!(it.other.api().read(&phone).await?.status, 200);
    assert_eq!(it.world.contacts().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_node_that_leaves_finds_dead_ends_its_instance_at_the_owner() -> Outcome {
    let it = Leaving::soon().await?;
    let phone = it.world.enable_android().await?;
    it.world.fcm.answer_with(FCM_TOKEN, [Accept, Unregistered]);
    let (caller, _) = it.call(&phone).await?;
    it.meanwhile(1.0, async |there| {
        assert_eq!(caller.final_response(SOON).await?.status(), Some(480));
        let is_gone = || async { (there.read(&phone).await.ok()?.status == 404).then_some(()) };
        it.world.until("an end", is_gone).await
    })
    .await?;
    assert_eq!(it.other.metric("sipwake_wipes_total{reason=\"push-token-gone\"}").await, Some(1.0));
    assert!(!it.world.relay.log().contains("push-token-gone"), "it is not for the first node to end it");
    it.world.await_contacts(0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_at_a_node_that_leaves_is_that_of_the_instance_that_is_enabled_again_elsewhere() -> Outcome {
    let it = Leaving::soon().await?;
    let earlier = it.world.enable_android().await?;
    let (caller, call) = it.call(&earlier).await?;
    it.meanwhile(1.0, async |there| {
        let request = it.world.android_enable_request(FCM_TOKEN);
        let later = there.enabled(&request).await?;
        assert_eq!(state_of(&there, &later, &call).await?, (200, json!("ringing")));
        // The push has named the edge of the node that leaves.
        let at_the_leaver = Instance { edge: earlier.edge.clone(), ..later.clone() };
        let (_phone, invite) = it.world.wake_to_call(&at_the_leaver).await?;
        it.world.answer(&caller, &invite).await?;
        it.world.hang_up(&caller, &invite).await
    })
    .await?;
    assert_eq!(it.world.fcm.count(), 1, "{:?}", it.world.fcm.pushes());
    Ok(())
}

/// Its owner has given its lease back, and nobody has taken it over yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_another_node_is_asked_for_in_the_middle_of_a_hand_over_waits_for_who_takes_the_account()
-> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let instance = world.enable().await?;
    let changes = async {
        for presence in ["background", "foreground"].into_iter().cycle().take(30) {
            let asked = Instant::now();
            let answer = other.api().change(&instance, &json!({"presence": presence})).await?;
            // Nobody is turned away before 3 s have passed; on a slow machine a hand-over takes longer.
            let has_waited = answer.status == 503 && asked.elapsed() >= Duration::from_secs(3);
            assert!(answer.status == 200 || has_waited, "after {:?}: {}", asked.elapsed(), answer.text());
        }
        // Whoever takes it has it by then.
        let changes = async || {
            let answer = other.api().change(&instance, &json!({"presence": "background"})).await.ok()?;
            (answer.status == 200).then_some(())
        };
        world.until("a change", changes).await?;
        Ok::<(), Missed>(())
    };
    let (ended, changed) = tokio::join!(world.relay.terminate(SOON), changes);
    changed?;
    ended.map(drop)
}
