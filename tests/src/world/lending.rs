//! Enabling push: what an app asks for, and the instance that comes of it.

use std::io;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Node, SipServer, World};
use crate::api_client::{Answer, Instance};
use crate::board::Missed;
use crate::digest::token;
use crate::registrar::{Behaviour, Registrar};

/// The APNs token of Alice's first device.
pub const TOKEN: &str = "a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000";
/// The APNs token of another device, or the one that a device takes its alerts by.
pub const OTHER_TOKEN: &str = "0123456701234567012345670123456701234567012345670123456701234567";
/// The FCM token of an Android device.
pub const FCM_TOKEN: &str = "fcm-device:Alice_1";

/// A target on APNs.
pub fn apple(token: &str) -> Value {
    json!({"provider": "apns", "token": token})
}

/// A target on FCM.
pub fn google(token: &str) -> Value {
    json!({"provider": "fcm", "token": token})
}

impl<N: Node> World<Registrar, N> {
    /// Begins to disable push while the SIP server answers nothing: the instance is ending for 3 s, and then the receipt comes.
    ///
    /// # Errors
    /// [`Missed`] when it does not begin to end.
    pub async fn disable_unanswered(&self, instance: &Instance) -> Result<JoinHandle<io::Result<Answer>>, Missed> {
        self.registrar.behave(&self.aor(), Behaviour::Silence);
        let (api, ending) = (self.relay.setup().api(), instance.clone());
        let disabling = tokio::spawn(async move { api.disable(&ending).await });
        let is_ending = || async {
            let answer = self.api.read(instance).await.ok()?;
            (answer.json()["state"] == "ending" || answer.status == 404).then_some(())
        };
        self.until("its end", is_ending).await?;
        assert!(!disabling.is_finished(), "the receipt waits for the SIP server");
        Ok(disabling)
    }
}

impl<S: SipServer, N: Node> World<S, N> {
    /// Alice's AOR.
    pub fn aor(&self) -> String {
        self.registrar.aor(self.registrar.alice())
    }

    /// The body that enables push for Alice on an iPhone with this token.
    pub fn enable_request(&self, token: &str) -> Value {
        self.enable_request_for(json!({"call_push": apple(token)}))
    }

    /// The same by a proxy, which her SIP server is itself: no device of the Contact that she has without one.
    pub fn enable_request_by_proxy(&self, token: &str) -> Value {
        let mut request = self.enable_request(token);
        request["account"]["outbound_proxy"] = request["account"]["registrar"].clone();
        request
    }

    /// The body that enables push for Alice on an Android phone with this token.
    pub fn android_enable_request(&self, token: &str) -> Value {
        self.enable_request_for(json!({"call_push": google(token)}))
    }

    /// The body that enables push for Alice on any device.
    pub fn enable_request_for(&self, device: Value) -> Value {
        self.enable_request_of(self.registrar.alice(), device)
    }

    /// The body that enables push for a user that the SIP server knows, on any device.
    ///
    /// # Panics
    /// When the SIP server does not know the user.
    pub fn enable_request_of(&self, user: &str, device: Value) -> Value {
        let password = self.registrar.password(user).expect("the SIP server knows the user");
        json!({
            "account": {
                "aor": self.registrar.aor(user), "auth_username": user, "password": password,
                "registrar": self.registrar.uri(self.transport),
            },
            "device": device,
        })
    }

    /// The body that enables push for Alice on an iPhone with [`TOKEN`] that takes its alerts by [`OTHER_TOKEN`].
    pub fn enable_request_with_alerts(&self) -> Value {
        self.enable_request_for(json!({"call_push": apple(TOKEN), "alert_push": apple(OTHER_TOKEN)}))
    }

    /// The body that enables push for a user on an iPhone that nobody else has.
    pub fn enable_request_anew(&self, user: &str) -> Value {
        let token = token() + &token() + &token() + &token();
        self.enable_request_of(user, json!({"call_push": apple(&token)}))
    }

    /// Enables push with this body; the account must be registered.
    ///
    /// # Errors
    /// [`Missed`] for another answer.
    pub async fn enable_as(&self, request: &Value) -> Result<Instance, Missed> {
        let instance = self.api.enabled(request).await?;
        self.secrets.keep("an instance's secret", &instance.secret);
        self.secrets.keep("a push token", &instance.push_token);
        if instance.answer["registration"]["state"] == "registered" {
            Ok(instance)
        } else {
            Err(Missed::new("a registered instance", instance.answer.to_string()))
        }
    }

    /// Enables push for an iPhone with [`TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn enable(&self) -> Result<Instance, Missed> {
        self.enable_as(&self.enable_request(TOKEN)).await
    }

    /// Enables push for an iPhone with [`OTHER_TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn enable_other(&self) -> Result<Instance, Missed> {
        self.enable_as(&self.enable_request(OTHER_TOKEN)).await
    }

    /// Enables push for an Android phone with [`FCM_TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn enable_android(&self) -> Result<Instance, Missed> {
        self.enable_as(&self.android_enable_request(FCM_TOKEN)).await
    }

    /// Enables push for an iPhone of a user that nobody else has.
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn lend(&self, user: &str) -> Result<Instance, Missed> {
        self.enable_as(&self.enable_request_anew(user)).await
    }

    /// Disables push: the receipt must come at once.
    ///
    /// # Errors
    /// [`Missed`] for another answer than 200.
    pub async fn disable(&self, instance: &Instance) -> Result<Value, Missed> {
        let answer = self.api.disable(instance).await?;
        match answer.status {
            200 => Ok(answer.json()),
            status => Err(Missed::new("a receipt", format!("{status} {}", answer.text()))),
        }
    }

    /// Changes an instance, which must be answered 200 with what it is now.
    ///
    /// # Errors
    /// [`Missed`] for another answer.
    pub async fn change(&self, instance: &Instance, change: Value) -> Result<Value, Missed> {
        let answer = self.api.change(instance, &change).await?;
        match answer.status {
            200 => Ok(answer.json()),
            status => Err(Missed::new(format!("200 to {change}"), format!("{status} {}", answer.text()))),
        }
    }

    /// Waits until an instance is unknown to the API.
    ///
    /// # Errors
    /// [`Missed`] when it stays known.
    pub async fn await_gone(&self, instance: &Instance) -> super::Outcome {
        let gone = || async { self.api.read(instance).await.ok().filter(|answer| answer.status == 404).map(drop) };
        self.until("404 for the instance", gone).await
    }
}
