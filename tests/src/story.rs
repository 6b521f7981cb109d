//! The main job, told once from beginning to end on stand-ins: a sleeping phone rings.
//!
//! The demo prints it, the smoke test asserts it. Each step has a deadline; one that does not happen in time ends the
//! story with what was awaited and what was seen.
//!
//! Invariant: everything runs in this process, on loopback alone, and stops when the story ends.

use std::time::{Duration, Instant};

use crate::api_client::Instance;
use crate::board::Missed;
use crate::caller::CallOptions;
use crate::stage::{STEP, Stage, text};
use crate::wire::Transport;

/// Hears each step as it happens: the time since the story began, and what happened.
pub type Listener<'a> = &'a mut (dyn FnMut(Duration, &str) + Send);

struct Story<'a> {
    stage: Stage,
    began: Instant,
    listener: Listener<'a>,
}

/// Plays the whole story.
///
/// # Errors
/// [`Missed`] for the first step that did not happen.
pub async fn play(listener: Listener<'_>) -> Result<(), Missed> {
    let began = Instant::now();
    let stage = Stage::with(|_| {}).await?;
    let mut story = Story { stage, began, listener };
    let (edge, api) = (story.stage.relay.edge, story.stage.relay.api);
    story.say(&format!("the relay serves: devices at {edge} (SIP over TLS), apps at https://{api}"));
    let instance = story.enable().await?;
    story.sleeping_phone_rings(&instance).await?;
    story.caller_changes_his_mind(&instance).await?;
    story.declined(&instance).await?;
    story.disable(&instance).await?;
    story.end().await
}

impl Story<'_> {
    async fn enable(&mut self) -> Result<Instance, Missed> {
        let aor = self.stage.aor();
        let wish = self.stage.wish(Transport::Tls, "story-device-token");
        let instance = self.stage.enabled(&wish).await?;
        let contacts = self.stage.registrar.await_contacts(&aor, 1, STEP).await?;
        self.say(&format!("the app lends the account of {aor}: {} (201)", instance.id));
        let uri = contacts.first().map(|binding| binding.uri.clone()).unwrap_or_default();
        self.say(&format!("the SIP server has the relay's Contact: {uri}; the phone sleeps"));
        Ok(instance)
    }

    async fn sleeping_phone_rings(&mut self, instance: &Instance) -> Result<(), Missed> {
        let aor = self.stage.aor();
        let caller = self.stage.registrar.call(&aor, &CallOptions::default())?;
        self.say("Bob calls: the SIP server sends the INVITE to the relay");
        let push = self.stage.push("call").await?;
        self.say(&format!("the push service has the push: {push}"));
        caller.expect(180, STEP).await?;
        self.say("Bob hears ringing");
        let phone = self.stage.wake(instance).await?;
        self.say("the phone woke, connected to the edge and registered with its instance secret");
        let call = phone.next_invite(STEP).await?;
        self.say("the held INVITE reached the phone");
        call.ring();
        call.answer();
        caller.answered(STEP).await?;
        call.expect_ack(STEP).await?;
        self.stage.expect_state(instance, &push, "answered").await?;
        self.say("Alice answers: 200 and ACK went through");
        caller.bye(STEP).await?;
        call.expect_bye(STEP).await?;
        self.say("Bob hangs up: BYE went through to the phone");

        let again = self.stage.registrar.call(&aor, &CallOptions::default())?;
        let call = phone.next_invite(STEP).await?;
        call.answer();
        again.answered(STEP).await?;
        call.expect_ack(STEP).await?;
        self.say("Bob calls again: the phone is there, gets the call at once, and answers");
        call.hang_up(STEP).await?;
        again.expect_bye(STEP).await?;
        self.say("Alice hangs up: BYE went through to Bob; the phone goes to sleep");
        phone.unregister(STEP).await?;
        match phone.violations().is_empty() {
            true => Ok(()),
            false => Err(Missed::new("a phone that is content", phone.violations().join("; "))),
        }
    }

    async fn caller_changes_his_mind(&mut self, instance: &Instance) -> Result<(), Missed> {
        let caller = self.stage.registrar.call(&self.stage.aor(), &CallOptions::default())?;
        let push = self.stage.push("call").await?;
        caller.cancel().await?;
        caller.expect(487, STEP).await?;
        self.stage.expect_state(instance, &push, "cancelled").await?;
        self.stage.pushes(&["call-ended", "missed-call"]).await?;
        let phone = self.stage.wake(instance).await?;
        // What the relay sends on this flow stands in order: an INVITE would be here before the answer to the ping.
        phone.ping(STEP).await?;
        if phone.invited() > 0 {
            return Err(Missed::new("a phone that does not ring", "an INVITE"));
        }
        self.say("Bob calls and gives up while the phone wakes: 487; the phone is told of the missed call, comes late, and does not ring");
        phone.unregister(STEP).await.map(drop)
    }

    async fn declined(&mut self, instance: &Instance) -> Result<(), Missed> {
        let caller = self.stage.registrar.call(&self.stage.aor(), &CallOptions::default())?;
        let push = self.stage.push("call").await?;
        let answer = self.stage.answer(self.stage.api.decline(instance, &text(&push["call"])).await)?;
        if answer.status != 204 {
            return Err(Missed::new("204 to a decline", format!("{} {}", answer.status, answer.text())));
        }
        caller.expect(603, STEP).await?;
        self.stage.expect_state(instance, &push, "declined").await?;
        self.stage.push("call-ended").await?;
        self.say("Bob calls once more, Alice declines from the notification: 603");
        Ok(())
    }

    async fn disable(&mut self, instance: &Instance) -> Result<(), Missed> {
        let answer = self.stage.answer(self.stage.api.disable(instance).await)?;
        let receipt = answer.json();
        if answer.status != 200 || receipt["unregistered"] != true || receipt["reason"] != "disabled" {
            return Err(Missed::new("a receipt", format!("{} {}", answer.status, answer.text())));
        }
        self.stage.registrar.await_contacts(&self.stage.aor(), 0, STEP).await?;
        self.stage.await_gone(instance, STEP).await?;
        self.say(&format!("Alice disables push: unregistered, wiped; the receipt: {receipt}"));
        Ok(())
    }

    async fn end(self) -> Result<(), Missed> {
        let wrong = self.stage.violations();
        if !wrong.is_empty() {
            return Err(Missed::new("stand-ins that are content", wrong.join("; ")));
        }
        self.stage.relay.shutdown().await;
        (self.listener)(self.began.elapsed(), "the relay drained and stopped");
        Ok(())
    }

    fn say(&mut self, what: &str) {
        (self.listener)(self.began.elapsed(), what);
    }
}
