//! The parameters `pn-provider`, `pn-param` and `pn-prid` of a Contact, as the address of one App's device (RFC 8599 §10,
//! §11).
//!
//! | `pn-provider` | `pn-param` | `pn-prid` |
//! | --- | --- | --- |
//! | `apns`, `apns.dev` (Apple's sandbox) | team and bundle: `TEAM123456.com.example.phone`, or with `.voip`, `.remote` or `.voip&remote` behind | the device's token; of several, `TOKEN:voip&TOKEN:remote` |
//! | `fcm` | the Firebase project | the registration token |
//!
//! Calls go to the VoIP token, or to the only one there is. Everything else goes to the other token; with a `pn-param`
//! that ends with `.voip` and one token alone there is none, for Apple takes no other push for it.
//!
//! Invariant: an address is given only for an App of this relay, by its own team or project.

use sip::endpoint::PushContact;

use super::PushService;
use super::delivery::service::Mode;
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

/// The address of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// The App.
    pub app: Box<str>,
    /// The target of calls.
    pub call: PushTarget,
    /// The target of everything else; `None`: none.
    pub other: Option<PushTarget>,
}

/// Why a Contact has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAddress {
    /// The service, or the App, is not served here: 555.
    #[error("the push service, or the application, is not served here")]
    NotServed,
    /// The only token is one that no call is pushed to: 555.
    #[error("no call is pushed to the only token")]
    NoCallToken,
    /// The token is malformed: 400.
    #[error("the push token has not the form of one")]
    Malformed,
}

impl NoAddress {
    /// The status of a REGISTER with such a Contact.
    pub fn status(self) -> u16 {
        match self {
            Self::NotServed | Self::NoCallToken => 555,
            Self::Malformed => 400,
        }
    }

    /// The reason for a developer, in the text of a Warning.
    pub fn warning(self) -> &'static str {
        match self {
            Self::NotServed => "no App of this relay has this pn-provider with this pn-param",
            Self::NoCallToken => "the only token of pn-prid is a remote one, to which no call is pushed",
            Self::Malformed => "pn-prid is no token of this pn-provider",
        }
    }
}

impl PushService {
    /// The address that a Contact names, confirmed at `now_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// [`NoAddress`].
    pub fn address(&self, contact: &PushContact, now_ms: u64) -> Result<Address, NoAddress> {
        let param = contact.param.as_deref().unwrap_or_default();
        let target = |provider, token: &str| PushTarget::new(provider, PushToken::new(token), now_ms);
        let apple = |provider| {
            let (app, services) = self.apple_app(param).ok_or(NoAddress::NotServed)?;
            let tokens = Tokens::read(&contact.prid).ok_or(NoAddress::Malformed)?;
            let call = tokens.voip.or(tokens.only).ok_or(NoAddress::NoCallToken)?;
            let other = tokens.remote.or(tokens.only.filter(|_| services != Services::Voip));
            Ok(Address { app, call: target(provider, call), other: other.map(|token| target(provider, token)) })
        };
        match &*contact.provider {
            "apns" => apple(Provider::ApnsProduction),
            "apns.dev" => apple(Provider::ApnsSandbox),
            "fcm" => {
                let app = self.google_app(param).ok_or(NoAddress::NotServed)?;
                let call = target(Provider::Fcm, &contact.prid);
                Ok(Address { app, other: Some(call.clone()), call })
            }
            _ => Err(NoAddress::NotServed),
        }
    }

    /// The values of `pn-provider` that some App here has.
    pub fn providers(&self) -> Vec<&'static str> {
        let (apple, google) = match &*self.mode() {
            Mode::Printed => (true, true),
            Mode::Sent(apps) => {
                (apps.values().any(|app| app.apns.is_some()), apps.values().any(|app| app.fcm.is_some()))
            }
        };
        let apple = if apple { &["apns", "apns.dev"][..] } else { &[] };
        apple.iter().copied().chain(google.then_some("fcm")).collect()
    }

    fn apple_app(&self, param: &str) -> Option<(Box<str>, Services)> {
        let (team, topic) = param.split_once('.')?;
        let readings = [
            Some((topic, Services::Any)),
            topic.rsplit_once('.').and_then(|(bundle, services)| Some((bundle, Services::read(services)?))),
        ];
        let served = |bundle: &str| match &*self.mode() {
            Mode::Printed => true,
            Mode::Sent(apps) => {
                apps.get(bundle).and_then(|app| app.apns.as_ref()).is_some_and(|apns| apns.is_team(team))
            }
        };
        // The longer reading first where everything is served: `.voip` is no part of a bundle.
        let printed = matches!(&*self.mode(), Mode::Printed);
        let mut readings: Vec<_> = readings.into_iter().flatten().collect();
        if printed {
            readings.reverse();
        }
        readings.into_iter().find(|(bundle, _)| served(bundle)).map(|(bundle, services)| (bundle.into(), services))
    }

    fn google_app(&self, project: &str) -> Option<Box<str>> {
        match &*self.mode() {
            Mode::Printed => Some(project.into()),
            // One project may serve several Apps; any of their keys reaches the device, and the choice must stay the same.
            Mode::Sent(apps) => {
                let theirs = apps.iter().filter(|(_, app)| app.fcm.as_ref().is_some_and(|fcm| fcm.is_project(project)));
                theirs.map(|(id, _)| id.clone()).min()
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Services {
    Voip,
    Any,
}

impl Services {
    /// Parses the services after a bundle, members as in a `pn-prid`. `None`: none of them is known.
    fn read(text: &str) -> Option<Self> {
        let mut known = text.split('&').filter_map(service);
        let first = known.next()?;
        Some(if first == "voip" && known.all(|service| service == first) { Self::Voip } else { Self::Any })
    }
}

/// The known service that a label names, in any case.
fn service(label: &str) -> Option<&'static str> {
    ["voip", "remote"].into_iter().find(|known| label.eq_ignore_ascii_case(known))
}

struct Tokens<'a> {
    only: Option<&'a str>,
    voip: Option<&'a str>,
    remote: Option<&'a str>,
}

impl<'a> Tokens<'a> {
    /// Parses a `pn-prid`. Empty members, and tokens of unknown services, are skipped. A token without a label, among several, is for the service that no
    /// other token is for.
    fn read(prid: &'a str) -> Option<Self> {
        let mut tokens = Self { only: None, voip: None, remote: None };
        let (mut members, mut unlabelled) = (0, None);
        for member in prid.split('&').filter(|member| !member.is_empty()) {
            let (token, label) = member.split_once(':').unwrap_or((member, ""));
            let label = if label.is_empty() { Some("") } else { service(label) };
            let Some(label) = label.filter(|_| !token.is_empty()) else { continue };
            if !(64..=200).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            members += 1;
            match label {
                "voip" => tokens.voip = Some(token),
                "remote" => tokens.remote = Some(token),
                _ => unlabelled = Some(token),
            }
        }
        match (unlabelled, tokens.voip, tokens.remote) {
            (Some(token), None, None) if members == 1 => tokens.only = Some(token),
            (Some(token), None, Some(_)) => tokens.voip = Some(token),
            (Some(token), Some(_), None) => tokens.remote = Some(token),
            // Calls and the rest cannot be told apart.
            (Some(_), None, None) | (Some(_), Some(_), Some(_)) | (None, None, None) => return None,
            (None, ..) => {}
        }
        Some(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11";
    const B: &str = "bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22bb22";

    fn address(provider: &str, param: &str, prid: &str) -> Result<(String, Option<String>), NoAddress> {
        let contact = PushContact { provider: provider.into(), param: Some(param.into()), prid: prid.into() };
        let address = PushService::printed().address(&contact, 1)?;
        let text = |target: PushTarget| target.token.expose().to_owned();
        Ok((text(address.call), address.other.map(text)))
    }

    #[test]
    fn calls_go_to_the_voip_token_and_the_rest_to_the_other_one() {
        let own = |text: &str| text.to_owned();
        assert_eq!(address("apns", "TEAM.com.example", A), Ok((own(A), Some(own(A)))));
        assert_eq!(address("apns", "TEAM.com.example.voip", A), Ok((own(A), None)), "Apple takes nothing else for it");
        let both = format!("{A}:voip&{B}:remote");
        assert_eq!(address("apns.dev", "TEAM.com.example.voip&remote", &both), Ok((own(A), Some(own(B)))));
        assert_eq!(address("apns", "TEAM.com.example.remote", &format!("{B}:remote")), Err(NoAddress::NoCallToken));
        assert_eq!(address("fcm", "project", "f:x"), Ok((own("f:x"), Some(own("f:x")))));
    }

    #[test]
    fn the_services_of_a_pn_param_are_read_as_the_labels_of_a_pn_prid() {
        let own = |text: &str| text.to_owned();
        let both = format!("{A}:VoIP&{B}:Remote&{B}:watch");
        for services in ["voip&remote", "VOIP&Remote", "&voip&&remote&", "voip&watch&remote", "voip&watch", "voip&"] {
            let param = format!("TEAM.com.example.{services}");
            assert_eq!(address("apns", &param, &both), Ok((own(A), Some(own(B)))), "{services}");
        }
        for services in ["voip&", "&voip", "VOIP", "voip&watch", "voip&voip"] {
            let param = format!("TEAM.com.example.{services}");
            assert_eq!(address("apns", &param, A), Ok((own(A), None)), "{services}");
        }
    }

    #[test]
    fn a_label_that_is_missing_is_that_of_the_one_service_left() {
        let own = |text: &str| text.to_owned();
        let both = Ok((own(A), Some(own(B))));
        for prid in [
            format!("{A}:voip&{B}"),
            format!("{A}&{B}:remote"),
            format!("{A}:voip&&{B}:remote&"),
            format!("{A}:voip&{B}:"),
            format!("{A}:voip&{A}:odd&{B}:remote"),
            format!("{A}:voip&x:odd:y&{B}&:"),
        ] {
            assert_eq!(address("apns", "TEAM.com.example.voip&remote", &prid), both, "{prid}");
        }
        assert_eq!(address("apns", "TEAM.com.example.voip", &format!("&{A}:voip&")), Ok((own(A), None)));
    }

    #[test]
    fn what_is_no_address_is_told_apart() {
        assert_eq!(address("webpush", "x", "y"), Err(NoAddress::NotServed));
        assert_eq!(address("apns", "no-team", A), Err(NoAddress::NotServed));
        for broken in ["x", &A[..63], &format!("{A}&{B}"), &format!("{A}:odd"), "&", ""] {
            assert_eq!(address("apns", "TEAM.com.example", broken), Err(NoAddress::Malformed), "{broken}");
        }
    }
}
