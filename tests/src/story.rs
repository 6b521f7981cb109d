//! The main job, told once from beginning to end on stand-ins: a sleeping phone rings.
//!
//! The demo prints it, the smoke test asserts it. Each step has a deadline; one that does not happen in time ends the
//! story with what was awaited and what was seen.
//!
//! Invariant: everything runs in this process, on loopback alone, and stops when the story ends.

use std::time::{Duration, Instant};

use crate::api_client::Instance;
use crate::board::Missed;
use crate::registrar::Registrar;
use crate::world::in_process::InProcess;
use crate::world::{FCM_TOKEN, Node as _, Outcome, SOON, World};

/// Hears each step as it happens: the time since the story began, and what happened.
pub type Listener<'a> = &'a mut (dyn FnMut(Duration, &str) + Send);

struct Story<'a> {
    world: World<Registrar, InProcess>,
    began: Instant,
    listener: Listener<'a>,
}

/// Plays the whole story.
///
/// # Errors
/// [`Missed`] for the first step that did not happen.
pub async fn play(listener: Listener<'_>) -> Outcome {
    let began = Instant::now();
    let world = World::in_process().await?;
    let mut story = Story { world, began, listener };
    let ports = story.world.relay.setup().ports;
    let (edge, api) = (format!("127.0.0.1:{}", ports.edge), format!("127.0.0.1:{}", ports.api));
    story.say(&format!("the relay serves: devices at {edge} (SIP over TLS), apps at https://{api}"));
    let alice = story.enable().await?;
    story.sleeping_phone_rings(&alice).await?;
    story.caller_changes_his_mind(&alice).await?;
    story.declined(&alice).await?;
    story.disable(&alice).await?;
    story.end().await
}

impl Story<'_> {
    async fn enable(&mut self) -> Result<Instance, Missed> {
        let alice = self.world.enable_as(&self.world.android_enable_request(FCM_TOKEN)).await?;
        let contacts = self.world.await_contacts(1).await?;
        self.say(&format!("the app lends the account of {}: {} (201)", alice.aor, alice.id));
        let uri = contacts.first().map(|binding| binding.uri.clone()).unwrap_or_default();
        self.say(&format!("the SIP server has the relay's Contact: {uri}; the phone sleeps"));
        Ok(alice)
    }

    async fn sleeping_phone_rings(&mut self, alice: &Instance) -> Outcome {
        let caller = self.world.call()?;
        self.say("Bob calls: the SIP server sends the INVITE to the relay");
        let push = self.world.push_for(alice).await?;
        self.say(&format!("the push service has the push: {push}"));
        caller.expect(180, SOON).await?;
        self.say("Bob hears ringing");
        let phone = self.world.wake(alice).await?;
        self.say("the phone woke, connected to the edge and registered with its instance secret");
        let call = phone.next_invite(SOON).await?;
        self.say("the waiting INVITE reached the phone");
        self.world.ring(&caller, &call).await?;
        self.world.answer(&caller, &call).await?;
        self.world.await_state(alice, &push, "answered").await?;
        self.say("Alice answers: 200 and ACK went through");
        self.world.hang_up(&caller, &call).await?;
        self.say("Bob hangs up: BYE went through to the phone");

        let (again, call) = self.world.answered_at(&phone).await?;
        self.say("Bob calls again: the phone is there, gets the call at once, and answers");
        self.world.phone_hangs_up(&again, &call).await?;
        self.say("Alice hangs up: BYE went through to Bob; the phone goes to sleep");
        phone.unregister(SOON).await.map(drop)
    }

    async fn caller_changes_his_mind(&mut self, alice: &Instance) -> Outcome {
        let caller = self.world.call()?;
        let push = self.world.push_for(alice).await?;
        self.world.cancel(&caller).await?;
        self.world.await_state(alice, &push, "cancelled").await?;
        self.world.android_pushes(&["call-ended", "missed-call"]).await?;
        let phone = self.world.wakes_in_vain(alice).await?;
        self.say(
            "Bob calls and gives up while the phone wakes: 487; the phone is told of the missed call, comes late, and does not ring",
        );
        phone.unregister(SOON).await.map(drop)
    }

    async fn declined(&mut self, alice: &Instance) -> Outcome {
        let caller = self.world.call()?;
        let push = self.world.push_for(alice).await?;
        self.world.decline(&caller, alice, &push).await?;
        self.world.await_state(alice, &push, "declined").await?;
        self.world.android_pushes(&["call-ended"]).await?;
        self.say("Bob calls once more, Alice declines from the notification: 603");
        Ok(())
    }

    async fn disable(&mut self, alice: &Instance) -> Outcome {
        let receipt = self.world.disable(alice).await?;
        if receipt["unregistered"] != true || receipt["reason"] != "disabled" {
            return Err(Missed::new("a receipt", receipt.to_string()));
        }
        self.world.await_contacts(0).await?;
        self.world.await_gone(alice).await?;
        self.say(&format!("Alice disables push: unregistered, wiped; the receipt: {receipt}"));
        Ok(())
    }

    async fn end(self) -> Outcome {
        self.world.content()?;
        self.world.shutdown().await;
        (self.listener)(self.began.elapsed(), "the relay drained and stopped");
        Ok(())
    }

    fn say(&mut self, what: &str) {
        (self.listener)(self.began.elapsed(), what);
    }
}
