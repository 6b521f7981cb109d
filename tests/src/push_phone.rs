//! A stand-in phone that lends no account: it registers at its own SIP server through the relay, which wakes it (RFC 8599).
//!
//! The phone is a [`Phone`]: [`sleep`] ends its connection without a farewell, as a phone does whose system suspends it, and [`PushPhone::wake`]
//! connects again and refreshes the registration.
//!
//! Invariant: its digest is for its SIP server alone; [`Learned`] holds the facts that it learned from the proxy.

use std::time::Duration;

use sip::message::{Message, Name};

use crate::authority::Authority;
use crate::board::Missed;
use crate::digest::token;
use crate::lines::first_line;
use crate::phone::{self, Phone, Through};
use crate::{apns, fcm};

/// Which push service wakes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Apple's, for calls alone: the token is one of VoIP.
    ApnsVoip(String),
    /// Apple's, with a token for VoIP and one for everything else.
    Apns(String, String),
    /// Google's.
    Fcm(String),
}

impl Service {
    /// The token for calls.
    pub fn call_token(&self) -> &str {
        match self {
            Self::ApnsVoip(token) | Self::Apns(token, _) | Self::Fcm(token) => token,
        }
    }

    /// The parameters of the Contact's URI (RFC 8599 §10, §11), for the stand-ins' App.
    pub fn parameters(&self) -> String {
        let (team, bundle) = (apns::TEAM_ID, apns::BUNDLE);
        match self {
            Self::ApnsVoip(token) => format!(";pn-provider=apns;pn-param={team}.{bundle}.voip;pn-prid={token}"),
            Self::Apns(voip, remote) => {
                let (param, prid) = (format!("{team}.{bundle}.voip&remote"), format!("{voip}:voip&{remote}:remote"));
                format!(";pn-provider=apns;pn-param={param};pn-prid={prid}")
            }
            Self::Fcm(token) => format!(";pn-provider=fcm;pn-param={};pn-prid={token}", fcm::PROJECT),
        }
    }
}

/// A phone and how it registers. Cheap to keep while the phone sleeps.
#[derive(Clone)]
pub struct PushPhone {
    /// How it connects and registers.
    pub settings: phone::Settings,
    service: Option<Service>,
}

/// The facts that a 2xx told a phone of the proxy on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// The services of `+sip.pns`.
    pub services: Vec<String>,
    /// `+sip.pnsreg`, in seconds.
    pub refresh_before_s: Option<u32>,
    /// `+sip.pnspurr`
    pub purr: Option<String>,
}

impl PushPhone {
    /// The phone of a user (name and password) at the SIP server `registrar` (its Request-URI) with this AOR, through the
    /// edge at this URI: `sip:127.0.0.1:5061;transport=tls`, or `;transport=ws` for its WebSocket.
    pub fn new(edge: &str, registrar: &str, aor: &str, credentials: (&str, &str), authority: &Authority) -> Self {
        let (user, password) = credentials;
        let mut settings = phone::Settings::new(edge, user, password, Some(authority));
        settings.aor = aor.to_owned();
        settings.through =
            Some(Through { registrar: registrar.to_owned(), pn: String::new(), features: String::new() });
        Self { settings, service: None }
    }

    /// Woken by this service.
    pub fn woken_by(mut self, service: &Service) -> Self {
        self.service = Some(service.clone());
        self.contact(&service.parameters(), "")
    }

    /// The service that wakes it.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// With these parameters of the Contact's URI, and these of the Contact.
    pub fn contact(mut self, pn: &str, features: &str) -> Self {
        if let Some(through) = &mut self.settings.through {
            (through.pn, through.features) = (pn.to_owned(), features.to_owned());
        }
        self
    }

    /// Asks for another lifetime than 300 s.
    pub fn expires(mut self, seconds: u32) -> Self {
        self.settings.expires = seconds;
        self
    }

    /// Another device of the same account.
    pub fn another_device(mut self) -> Self {
        self.settings.instance = Some(format!("urn:uuid:00000000-0000-4000-8000-{}", &token()[..12]));
        self
    }

    /// Connects and registers, which must be answered 200; for the first time, or because it was woken.
    ///
    /// # Errors
    /// [`Missed`] for another answer, or none `within` the time.
    pub async fn wake(&self, within: Duration) -> Result<(Phone, Learned), Missed> {
        let (phone, answer) = self.try_to_register(within).await?;
        match answer.status() {
            Some(200) => Ok((phone, learned(&answer))),
            _ => Err(Missed::new("200 to a REGISTER through the relay", first_line(&answer))),
        }
    }

    /// Connects and registers, whatever the answer is.
    ///
    /// # Errors
    /// [`Missed`] when there is none `within` the time.
    pub async fn try_to_register(&self, within: Duration) -> Result<(Phone, Message), Missed> {
        let connected = Phone::connect(self.settings.clone()).await;
        let phone = connected.map_err(|error| Missed::new("a connection", error.to_string()))?;
        let answer = phone.register(within).await?;
        Ok((phone, answer))
    }

    /// Registers for the first time and falls asleep.
    ///
    /// # Errors
    /// As [`Self::wake`].
    pub async fn register_and_sleep(&self, within: Duration) -> Result<Learned, Missed> {
        let (phone, learned) = self.wake(within).await?;
        sleep(phone);
        Ok(learned)
    }
}

/// The phone's system suspends it: its connection is gone.
pub fn sleep(phone: Phone) {
    phone.drop_connection();
}

/// The facts about push services in a response (RFC 8599 §8.2).
pub fn learned(response: &Message) -> Learned {
    let mut learned = Learned::default();
    for value in response.elements(Name::FeatureCaps) {
        let indicators = value.split(';').filter_map(|part| part.trim().split_once('='));
        for (name, value) in indicators {
            let value = value.trim_matches('"');
            match name {
                "+sip.pns" => learned.services.push(value.to_owned()),
                "+sip.pnsreg" => learned.refresh_before_s = value.parse().ok(),
                "+sip.pnspurr" => learned.purr = Some(value.to_owned()),
                _ => {}
            }
        }
    }
    learned
}
