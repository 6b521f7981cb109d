//! Calls as stories: Bob at the SIP server, Alice's phone at the edge.

use std::future::Future;

use serde_json::Value;

use super::{Node, Outcome, SOON, SipServer, World, text};
use crate::api_client::Instance;
use crate::board::Missed;
use crate::caller::{CallOptions, Caller};
use crate::location::Binding;
use crate::phone::{self, IncomingCall, Phone};
use crate::push_phone::{PushPhone, Service};
use crate::registrar::Registrar;
use crate::wire::Transport;

/// A device that sleeps: one that has lent its account, or one that registers through the relay by itself (RFC 8599).
pub trait Device: Sync {
    /// The AOR that it is called by.
    fn aor(&self) -> &str;
    /// The token that its calls are pushed to.
    fn call_token(&self) -> &str;
    /// Whether the token is one of FCM.
    fn has_fcm(&self) -> bool;
    /// Connects to the edge and registers.
    fn register<S: SipServer + Sync, N: Node + Sync>(
        &self,
        world: &World<S, N>,
    ) -> impl Future<Output = Result<Phone, Missed>> + Send;
}

/// A call that has reached the device that its push has woken.
pub struct Ringing {
    /// Bob.
    pub caller: Caller,
    /// The push that woke the device.
    pub push: Value,
    /// Alice's phone.
    pub phone: Phone,
    /// The INVITE, as her phone has it.
    pub call: IncomingCall,
}

impl<N: Node + Sync> World<Registrar, N> {
    /// Alice's Contacts at the SIP server.
    pub fn contacts(&self) -> Vec<Binding> {
        self.registrar.contacts(&self.aor())
    }

    /// Waits until the SIP server has so many Contacts of Alice's.
    ///
    /// # Errors
    /// [`Missed`] when it has others.
    pub async fn await_contacts(&self, count: usize) -> Result<Vec<Binding>, Missed> {
        self.registrar.await_contacts(&self.aor(), count, SOON).await
    }

    /// Bob calls Alice.
    ///
    /// # Errors
    /// [`Missed`] when the SIP server has no Contact of hers.
    pub fn call(&self) -> Result<Caller, Missed> {
        self.call_to(&self.aor(), &CallOptions::default())
    }

    /// Somebody calls Alice, or sends her another request.
    ///
    /// # Errors
    /// [`Missed`] when the SIP server has no Contact of hers.
    pub fn call_with(&self, options: &CallOptions) -> Result<Caller, Missed> {
        self.call_to(&self.aor(), options)
    }

    /// Somebody calls any account.
    ///
    /// # Errors
    /// [`Missed`] when the SIP server has no Contact of it.
    pub fn call_to(&self, aor: &str, options: &CallOptions) -> Result<Caller, Missed> {
        let caller = self.registrar.call(aor, options)?;
        self.watch_caller(&caller);
        Ok(caller)
    }

    /// Bob calls the account of a device.
    ///
    /// # Errors
    /// [`Missed`] when the SIP server has no Contact of it.
    pub fn call_for(&self, device: &impl Device) -> Result<Caller, Missed> {
        self.call_to(device.aor(), &CallOptions::default())
    }

    /// Bob calls Alice's sleeping iPhone, which is pushed.
    ///
    /// # Errors
    /// [`Missed`] when no push comes.
    pub async fn call_and_push(&self) -> Result<(Caller, Value), Missed> {
        let caller = self.call()?;
        Ok((caller, self.push().await?))
    }

    /// Bob calls the account of a sleeping device, whose push wakes it: it has the INVITE.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn rings(&self, device: &impl Device) -> Result<Ringing, Missed> {
        let caller = self.call_for(device)?;
        let push = self.push_for(device).await?;
        let (phone, call) = self.wake_to_call(device).await?;
        Ok(Ringing { caller, push, phone, call })
    }

    /// The same, and she answers.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered(&self, device: &impl Device) -> Result<Ringing, Missed> {
        let ringing = self.rings(device).await?;
        self.answer(&ringing.caller, &ringing.call).await?;
        Ok(ringing)
    }

    /// A whole call: Bob calls, the device wakes and answers, Bob hangs up, the device unregisters; nobody objects.
    ///
    /// # Errors
    /// [`Missed`] when it does not go so.
    pub async fn whole_call(&self, device: &impl Device) -> Outcome {
        self.rings_on(device).await?;
        self.content()
    }

    /// The same, whatever others have to object to.
    ///
    /// # Errors
    /// [`Missed`] when it does not go so.
    pub async fn rings_on(&self, device: &impl Device) -> Outcome {
        let caller = self.call_for(device)?;
        self.push_for(device).await?;
        self.talks(&caller, device).await
    }

    /// The device wakes for a call that waits and answers it, Bob hangs up, the device unregisters.
    ///
    /// # Errors
    /// [`Missed`] when it does not go so, or the device objects to anything.
    pub async fn talks(&self, caller: &Caller, device: &impl Device) -> Outcome {
        let (phone, call) = self.wake_to_call(device).await?;
        self.answer(caller, &call).await?;
        self.hang_up(caller, &call).await?;
        let gone = phone.unregister(SOON).await?;
        match (gone.status(), phone.violations().is_empty()) {
            (Some(200), true) => Ok(()),
            (status, _) => Err(Missed::new("a phone that leaves", format!("{status:?} {:?}", phone.violations()))),
        }
    }

    /// Bob calls the account of a device whose phone is there, and it answers.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered_on(&self, device: &impl Device, phone: &Phone) -> Result<(Caller, IncomingCall), Missed> {
        let caller = self.call_for(device)?;
        let call = phone.next_invite(SOON).await?;
        self.answer(&caller, &call).await?;
        Ok((caller, call))
    }

    /// Bob calls Alice's phone, which is there.
    ///
    /// # Errors
    /// [`Missed`] when no INVITE reaches it.
    pub async fn rings_at(&self, phone: &Phone) -> Result<(Caller, IncomingCall), Missed> {
        let caller = self.call()?;
        Ok((caller, phone.next_invite(SOON).await?))
    }

    /// The same, and she answers.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered_at(&self, phone: &Phone) -> Result<(Caller, IncomingCall), Missed> {
        let (caller, call) = self.rings_at(phone).await?;
        self.answer(&caller, &call).await?;
        Ok((caller, call))
    }

    /// The phone rings, and Bob hears so.
    ///
    /// # Errors
    /// [`Missed`] when Bob does not.
    pub async fn ring(&self, caller: &Caller, call: &IncomingCall) -> Outcome {
        call.ring();
        caller.expect(180, SOON).await.map(drop)
    }

    /// The phone answers, and Bob and the phone hear so.
    ///
    /// # Errors
    /// [`Missed`] when one of them does not.
    pub async fn answer(&self, caller: &Caller, call: &IncomingCall) -> Outcome {
        call.answer();
        caller.answered(SOON).await?;
        call.expect_ack(SOON).await.map(drop)
    }

    /// The phone refuses the call: Bob hears this status, and the phone its ACK.
    ///
    /// # Errors
    /// [`Missed`] when one of them does not.
    pub async fn refuse(&self, caller: &Caller, call: &IncomingCall, status: u16) -> Outcome {
        call.decline(status);
        caller.expect(status, SOON).await?;
        call.expect_ack(SOON).await.map(drop)
    }

    /// Alice declines the call of a push from its notification: Bob hears 603.
    ///
    /// # Errors
    /// [`Missed`] when the API or Bob is answered otherwise.
    pub async fn decline(&self, caller: &Caller, instance: &Instance, push: &Value) -> Outcome {
        let answer = self.api.decline(instance, &text(&push["call"])).await?;
        if answer.status != 204 {
            return Err(Missed::new("204 to a decline", format!("{} {}", answer.status, answer.text())));
        }
        caller.expect(603, SOON).await.map(drop)
    }

    /// Bob gives up.
    ///
    /// # Errors
    /// [`Missed`] when Bob does not hear 487.
    pub async fn cancel(&self, caller: &Caller) -> Outcome {
        caller.cancel().await?;
        caller.expect(487, SOON).await.map(drop)
    }

    /// Bob gives up while the phone rings, which stops.
    ///
    /// # Errors
    /// [`Missed`] when Bob does not hear 487, or the phone goes on.
    pub async fn cancel_ringing(&self, caller: &Caller, call: &IncomingCall) -> Outcome {
        caller.cancel().await?;
        call.expect_cancel(SOON).await?;
        caller.expect(487, SOON).await?;
        call.expect_ack(SOON).await.map(drop)
    }

    /// Bob hangs up.
    ///
    /// # Errors
    /// [`Missed`] when Bob or the phone does not hear so.
    pub async fn hang_up(&self, caller: &Caller, call: &IncomingCall) -> Outcome {
        caller.bye(SOON).await?;
        call.expect_bye(SOON).await.map(drop)
    }

    /// Alice hangs up.
    ///
    /// # Errors
    /// [`Missed`] when she or Bob does not hear so.
    pub async fn phone_hangs_up(&self, caller: &Caller, call: &IncomingCall) -> Outcome {
        call.hang_up(SOON).await?;
        caller.expect_bye(SOON).await.map(drop)
    }

    /// One of them hangs up.
    ///
    /// # Errors
    /// [`Missed`] when one of them does not hear so.
    pub async fn end(&self, caller_ends: bool, caller: &Caller, call: &IncomingCall) -> Outcome {
        if caller_ends { self.hang_up(caller, call).await } else { self.phone_hangs_up(caller, call).await }
    }
}

impl<S: SipServer + Sync, N: Node + Sync> World<S, N> {
    /// The device wakes: it has a connection and is registered.
    ///
    /// # Errors
    /// [`Missed`] when it is not let in.
    pub async fn wake(&self, device: &impl Device) -> Result<Phone, Missed> {
        let phone = device.register(self).await?;
        self.watch_phone(&phone);
        Ok(phone)
    }

    /// The device wakes for a call that waits: it has the INVITE.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn wake_to_call(&self, device: &impl Device) -> Result<(Phone, IncomingCall), Missed> {
        let phone = self.wake(device).await?;
        let call = phone.next_invite(SOON).await?;
        Ok((phone, call))
    }

    /// The device of an instance as it is set up.
    pub fn device(&self, instance: &Instance) -> phone::Settings {
        phone::Settings::new(&instance.edge_over(self.edge), &instance.id, &instance.secret, Some(&self.authority))
    }

    /// Alice's phone that lends nothing: it registers through the relay, and this service wakes it (RFC 8599).
    pub fn push_phone(&self, service: &Service) -> PushPhone {
        self.push_phone_of(self.registrar.alice(), service)
    }

    /// The same of a user that the SIP server knows.
    ///
    /// # Panics
    /// When the SIP server does not know the user.
    pub fn push_phone_of(&self, user: &str, service: &Service) -> PushPhone {
        let setup = self.relay.setup();
        let edge = match self.edge {
            Transport::Wss => format!("sip:{}:{};transport=ws", setup.edge_ip, setup.ports.websocket),
            _ => format!("sip:{}:{};transport=tls", setup.edge_ip, setup.ports.edge),
        };
        let password = self.registrar.password(user).expect("the SIP server knows the user");
        let (registrar, aor) = (self.registrar.uri(self.transport), self.registrar.aor(user));
        PushPhone::new(&edge, &registrar, &aor, (user, &password), &self.authority).woken_by(service)
    }

    /// A device that comes now is let in and not rung; it is there still.
    ///
    /// # Errors
    /// [`Missed`] when it is not let in, or rings.
    pub async fn wakes_in_vain(&self, device: &impl Device) -> Result<Phone, Missed> {
        let phone = self.wake(device).await?;
        // The pong comes after whatever followed the registration.
        phone.ping(SOON).await?;
        match phone.invited() {
            0 => Ok(phone),
            _ => Err(Missed::new("a phone that does not ring", "an INVITE")),
        }
    }
}

impl Device for Instance {
    fn aor(&self) -> &str {
        &self.aor
    }

    fn call_token(&self) -> &str {
        &self.push_token
    }

    fn has_fcm(&self) -> bool {
        self.fcm
    }

    async fn register<S: SipServer + Sync, N: Node + Sync>(&self, world: &World<S, N>) -> Result<Phone, Missed> {
        Phone::registered(world.device(self), SOON).await
    }
}

impl Device for PushPhone {
    fn aor(&self) -> &str {
        &self.settings.aor
    }

    fn call_token(&self) -> &str {
        self.service().map_or("", Service::call_token)
    }

    fn has_fcm(&self) -> bool {
        matches!(self.service(), Some(Service::Fcm(_)))
    }

    async fn register<S: SipServer + Sync, N: Node + Sync>(&self, _: &World<S, N>) -> Result<Phone, Missed> {
        self.wake(SOON).await.map(|(phone, _)| phone)
    }
}
