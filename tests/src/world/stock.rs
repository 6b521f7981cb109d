//! Calls among real peers: SIPp calls through Kamailio, and baresip is the phone.
//!
//! Invariant: a push is checked against the published form before a phone wakes for it.

use serde_json::{Value, json};

use super::real::{RealServer, SOON};
use super::{Outcome, World, text};
use crate::api_client::Instance;
use crate::baresip::{Account, Baresip};
use crate::board::Missed;
use crate::sipp::{Scenario, Sipp};
use crate::wire::Transport;

impl World<RealServer> {
    /// The real SIPp calls the account through Kamailio.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed.
    pub fn sipp_calls(&self, scenario: Scenario) -> Result<Sipp, Missed> {
        let server = self.registrar.address(Transport::Udp);
        Sipp::call(scenario, server, &self.registrar.user, self.registrar.domain(), SOON * 2)
    }

    /// Waits for SIPp's end: the scenario has run as it is written. Gives what went over the wire.
    ///
    /// # Errors
    /// [`Missed`] when it has not.
    pub async fn finished(&self, caller: Sipp) -> Result<String, Missed> {
        let finished = caller.finish(SOON).await;
        finished.map_err(|missed| Missed::new(missed.awaited, format!("{}\n{}", missed.seen, self.relay.log())))
    }

    /// The next push on the service of this instance, which must be for it.
    ///
    /// # Errors
    /// [`Missed`] when none comes, or another's.
    pub async fn next_push(&self, instance: &Instance) -> Result<Value, Missed> {
        let (token, payload) = if instance.fcm {
            self.google_push().await.map(|push| (push.token, push.payload))?
        } else {
            self.apple_push().await.map(|push| (push.token, push.payload["sipwake"].clone()))?
        };
        if token == instance.push_token {
            Ok(payload)
        } else {
            Err(Missed::new(format!("a push to {}", instance.push_token), token))
        }
    }

    /// The push for a call of SIPp's, checked against the published form.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    ///
    /// # Panics
    /// When it says anything else.
    pub async fn next_call_push(&self, instance: &Instance) -> Result<Value, Missed> {
        let push = self.next_push(instance).await?;
        assert_eq!((&push["v"], &push["event"]), (&json!(1), &json!("call")), "{push}");
        assert_eq!(push["instance"], instance.id.as_str());
        assert_eq!(push["from"], format!("sip:carol@{}", self.registrar.domain()));
        // The recipe by which a SIP server wakes does not tell the name.
        assert_eq!(push["name"].as_str(), (!self.registrar.plan.wake).then_some("Carol"), "{push}");
        assert_eq!(format!("sip:{};transport=tls", text(&push["edge"])), instance.edge);
        assert!(push["deadline"].as_u64() > push["sent_at"].as_u64(), "{push}");
        Ok(push)
    }

    /// The next two pushes on APNs go to these two devices.
    ///
    /// # Errors
    /// [`Missed`] when fewer come.
    ///
    /// # Panics
    /// When they go to others.
    pub async fn both_are_pushed(&self, devices: [&Instance; 2]) -> Outcome {
        let mut woken = [self.apple_push().await?.token, self.apple_push().await?.token];
        let mut both = devices.map(|device| device.push_token.clone());
        both.sort_unstable();
        woken.sort_unstable();
        assert_eq!(woken, both);
        Ok(())
    }

    /// How many pushes came that were taken.
    pub fn pushes(&self) -> u64 {
        self.apns.count() + self.fcm.count()
    }

    /// The stock client wakes up, connects to the edge and registers.
    ///
    /// # Errors
    /// [`Missed`] when it is not let in.
    pub async fn baresip(&self, instance: &Instance) -> Result<Baresip, Missed> {
        let phone = Baresip::start(&stock_account(instance), &self.authority).await?;
        let registered = phone.await_registered(SOON).await;
        registered.map_err(|missed| Missed::new(missed.awaited, format!("{}\n{}", missed.seen, self.relay.log())))?;
        Ok(phone)
    }

    /// SIPp calls, and the phone that the push wakes answers: the caller, the push, the phone.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn sipp_is_answered(
        &self,
        instance: &Instance,
        scenario: Scenario,
    ) -> Result<(Sipp, Value, Baresip), Missed> {
        let caller = self.sipp_calls(scenario)?;
        let push = self.next_call_push(instance).await?;
        let phone = self.baresip(instance).await?;
        phone.answer(1, SOON).await?;
        Ok((caller, push, phone))
    }

    /// The same, and the scenario runs to its end.
    ///
    /// # Errors
    /// [`Missed`] when it does not.
    pub async fn a_call_is_answered(&self, instance: &Instance) -> Outcome {
        let (caller, _, _phone) = self.sipp_is_answered(instance, Scenario::CallerHangsUp).await?;
        self.finished(caller).await.map(drop)
    }

    /// SIPp calls, the phone rings for the n-th time and refuses.
    ///
    /// # Errors
    /// [`Missed`] when it does not.
    pub async fn sipp_is_refused(&self, phone: &Baresip, nth: usize) -> Outcome {
        let caller = self.sipp_calls(Scenario::Refused(486))?;
        phone.await_rung(nth, SOON).await?;
        phone.hang_up().await?;
        self.finished(caller).await.map(drop)
    }
}

/// An instance as a stock client is configured with it.
pub fn stock_account(instance: &Instance) -> Account {
    Account::new(&instance.edge, &instance.id, &instance.secret)
}
