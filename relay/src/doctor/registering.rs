//! The step `register`: the REGISTERs of an examination, and what their answers say of the server.
//!
//! Invariant: a password is tried once, again only when its nonce was old; the Contact that was registered is taken away again.

use std::collections::BTreeSet;

use sip::auth::{Challenge, DigestResponse, Hash};
use sip::id::BindingId;
use sip::message::{Message, Method, Name, Uri};

use super::line::token;
use super::{Doctor, DoctorStep, Line, LineError, Patient, Report};
use crate::agent::digest::{Unanswerable, ha1_for};
use crate::agent::transport::upstreams::Route;
use crate::secret::with_clean_stack;

const STEP: DoctorStep = DoctorStep::Register;
/// A lifetime below this means many refreshes and, without lending, many pushes, in seconds.
const SHORT_S: u64 = 120;

/// The REGISTERs of an examination.
pub(super) struct Registering<'a> {
    doctor: &'a Doctor,
    line: Line,
    route: &'a Route,
    patient: &'a Patient,
    challenged: Option<Challenged>,
}

/// The challenge to answer.
struct Challenged {
    challenge: Challenge,
    /// The header that it came in.
    header: Name,
    /// Answers with its nonce until now.
    count: u32,
}

/// The fault that ended an examination.
pub(super) struct Ended {
    pub fault: String,
    pub remedy: &'static str,
}

impl From<LineError> for Ended {
    fn from(error: LineError) -> Self {
        Self {
            fault: error.to_string(),
            remedy: "look at the SIP server's log and its firewall: the relay's REGISTER would be lost too",
        }
    }
}

impl<'a> Registering<'a> {
    pub fn new(doctor: &'a Doctor, line: Line, route: &'a Route, patient: &'a Patient) -> Self {
        Self { doctor, line, route, patient, challenged: None }
    }

    /// Without a Contact first; then, with the credentials, for the Contacts that there are, and for one of its own.
    pub async fn look(&mut self, report: &mut Report) -> Result<(), Ended> {
        let first = self.send(&[]).await?;
        match first.status().unwrap_or_default() {
            401 | 407 => self.look_at_challenge(&first, report)?,
            status @ 200..300 => report.note(
                STEP,
                format!("{status} without credentials"),
                "whoever reaches this server registers anybody: ask for credentials",
            ),
            status => return Err(refused(status, &first)),
        }
        if self.patient.credentials.is_none() {
            report.note(STEP, "not tried any further", "give the password, or ha1, to see it registered");
            return Ok(());
        }
        let before = self.look_at_credentials(report).await?;
        if let Some(left) = relays_contact(&before) {
            let left = left.map(|seconds| format!(", for another {seconds} s")).unwrap_or_default();
            let what = format!("a relay has the account registered{left}: no other Contact is tried beside it");
            report.good(STEP, what);
            return Ok(());
        }
        self.look_at_own_contact(&contacts(&before), report).await
    }

    /// The answer to the credentials, which lists the Contacts.
    async fn look_at_credentials(&mut self, report: &mut Report) -> Result<Message, Ended> {
        let answer = self.send_authorized(&[]).await?;
        let status = answer.status().unwrap_or_default();
        report.proof = match status {
            200..300 => Some(true),
            401 | 403 | 404 | 407 | 604 => Some(false),
            _ => None,
        };
        if !(200..300).contains(&status) {
            return Err(refused(status, &answer));
        }
        report.good(STEP, "the credentials are accepted");
        Ok(answer)
    }

    /// Registers a Contact of its own beside those that were there `before`, and takes it away again.
    async fn look_at_own_contact(&mut self, before: &BTreeSet<String>, report: &mut Report) -> Result<(), Ended> {
        let own = OwnContact::new(&self.line);
        let wanted = self.doctor.register_expires.as_secs();
        let mut granted = self.send_authorized(&own.headers_with_path(wanted)).await?;
        if granted.status() == Some(423) {
            let min = granted.number(Name::MinExpires).map_or(3600, u64::from);
            report.note(
                STEP,
                format!("it grants nothing below {min} s"),
                "the relay follows; upstream.register_expires may name as much",
            );
            granted = self.send_authorized(&own.headers_with_path(min)).await?;
        }
        let mut keeps_path = true;
        if granted.status() == Some(420) {
            keeps_path = false;
            granted = self.send_authorized(&own.headers(wanted)).await?;
        }
        let status = granted.status().unwrap_or_default();
        if !(200..300).contains(&status) {
            return Err(Ended {
                fault: format!("{status} to a further Contact"),
                remedy: "the server may take no more Contacts of this account: raise its limit, or free one",
            });
        }
        look_at_lifetime(&granted, &own.uri, report);
        look_at_contacts(&granted, &own.uri, before, report);
        look_at_extensions(&granted, keeps_path, report);
        let gone = self.send_authorized(&own.headers(0)).await?;
        if !gone.status().is_some_and(|status| (200..300).contains(&status)) {
            let what = "the examination's own Contact could not be taken away";
            report.note(STEP, what, "it runs out by itself");
        }
        Ok(())
    }

    fn look_at_challenge(&mut self, response: &Message, report: &mut Report) -> Result<(), Ended> {
        let header = if response.has(Name::WwwAuthenticate) { Name::WwwAuthenticate } else { Name::ProxyAuthenticate };
        let values = || response.values(header).filter_map(|value| std::str::from_utf8(value).ok());
        let offered: Vec<Challenge> = values().filter_map(|value| Challenge::parse(value).ok()).collect();
        let allowed: &[Hash] = if self.doctor.allow_md5 {
            &[Hash::Sha256, Hash::Sha512_256, Hash::Md5]
        } else {
            &[Hash::Sha256, Hash::Sha512_256]
        };
        let Some(challenge) = Challenge::topmost_supported(values(), allowed) else {
            if Challenge::is_unreadable(values()) {
                return Err(Ended {
                    fault: "its digest challenge cannot be read".to_owned(),
                    remedy: "write it as RFC 7616 §3.3 says: a realm and a nonce, commas between parameters, each with a value and once",
                });
            }
            return Err(Ended {
                fault: "its challenge is none that this relay answers".to_owned(),
                remedy: "offer SHA-256 (RFC 8760), or let the operator set upstream.allow_md5",
            });
        };
        let mut names: Vec<&str> = Vec::new();
        for name in offered.iter().map(|it| it.algorithm.hash.as_str()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let what = format!("it asks for credentials in the realm {:?} ({})", &*challenge.realm, names.join(", "));
        if names.iter().all(|name| *name == "MD5") {
            report.note(STEP, what, "MD5 alone: the server should offer SHA-256, too (RFC 8760)");
        } else {
            report.good(STEP, what);
        }
        if let Some((user, proof)) = &self.patient.credentials
            && let Err(error) = with_clean_stack(|| ha1_for(user, proof, &challenge).map(drop))
        {
            return Err(unanswerable(error));
        }
        self.challenged = Some(Challenged { challenge, header, count: 0 });
        Ok(())
    }

    /// A REGISTER with credentials, again when only its nonce was old.
    async fn send_authorized(&mut self, headers: &[(Name, String)]) -> Result<Message, Ended> {
        let response = self.send(headers).await?;
        let Some(Challenged { header, .. }) = self.challenged else { return Ok(response) };
        let stale = |value: &&str| value.to_ascii_lowercase().replace([' ', '"'], "").contains("stale=true");
        let values: Vec<&str> = response.elements(header).collect();
        if matches!(response.status(), Some(401 | 407)) && values.iter().any(stale) {
            let mut unheard = Report::default();
            self.look_at_challenge(&response, &mut unheard)?;
            return Ok(self.send(headers).await?);
        }
        Ok(response)
    }

    async fn send(&mut self, headers: &[(Name, String)]) -> Result<Message, LineError> {
        let mut headers = headers.to_vec();
        let (registrar, aor) = (self.route.registrar(), &*self.patient.aor);
        if let (Some(Challenged { challenge, header, count }), Some((user, proof))) =
            (&mut self.challenged, &self.patient.credentials)
        {
            *count += 1;
            let (cnonce, nc) = (token(), *count);
            let answer = with_clean_stack(|| {
                let ha1 = ha1_for(user, proof, challenge).ok()?;
                let terms = DigestResponse {
                    username: user,
                    method: "REGISTER",
                    uri: registrar,
                    cnonce: &cnonce,
                    nc,
                    body: b"",
                };
                challenge.answer(&ha1, &terms).ok()
            });
            let name = match header {
                Name::ProxyAuthenticate => Name::ProxyAuthorization,
                _ => Name::Authorization,
            };
            headers.extend(answer.map(|answer| (name, answer)));
        }
        self.line.ask(Method::Register, registrar, aor, &headers).await
    }
}

/// The examination's own Contact, registered as the relay registers: with an instance, and a flow (RFC 5626).
struct OwnContact {
    uri: String,
    instance: String,
}

impl OwnContact {
    fn new(line: &Line) -> Self {
        let uri = line.contact(&format!("doctor-{}", token()));
        Self { uri, instance: format!("urn:uuid:00000000-0000-4000-8000-{}", &token()[..12]) }
    }

    fn headers(&self, expires: u64) -> Vec<(Name, String)> {
        let Self { uri, instance } = self;
        vec![
            (Name::Contact, format!("<{uri}>;+sip.instance=\"<{instance}>\";reg-id=1;expires={expires}")),
            (Name::Expires, expires.to_string()),
            (Name::Supported, "path, outbound, gruu".to_owned()),
        ]
    }

    fn headers_with_path(&self, expires: u64) -> Vec<(Name, String)> {
        let mut headers = self.headers(expires);
        headers.push((Name::Path, format!("<sip:{};lr>", self.uri.split('@').nth(1).unwrap_or_default())));
        headers
    }
}

fn look_at_lifetime(granted: &Message, own: &str, report: &mut Report) {
    let ours = granted
        .contacts()
        .iter()
        .find(|it| it.target() == Some(own))
        .and_then(|it| it.params.value("expires").and_then(|value| value.trim_matches('"').parse().ok()));
    let seconds = ours.or(granted.number(Name::Expires).map(u64::from));
    match seconds {
        Some(seconds) if seconds < SHORT_S => {
            report.note(
                STEP,
                format!("registered for {seconds} s"),
                "that is short: each refresh costs, and an app that lends nothing is woken for it",
            );
        }
        Some(seconds) => report.good(STEP, format!("registered for {seconds} s")),
        None => {
            report.note(STEP, "registered; for how long, the answer does not tell", "list the Contact with its expires")
        }
    }
}

/// The Contacts that are there beside `own`, and those that were there `before`.
fn look_at_contacts(granted: &Message, own: &str, before: &BTreeSet<String>, report: &mut Report) {
    let now = contacts(granted);
    let lost = before.difference(&now).count();
    let others = now.iter().filter(|contact| *contact != own).count();
    if lost > 0 {
        report.note(
            STEP,
            format!("this Contact took the place of {lost} other(s)"),
            "the server limits the Contacts of an account: a desk phone may be put out by the relay. Devices of one app share the relay's",
        );
    }
    if others > 0 {
        report.note(
            STEP,
            format!("{others} other Contact(s) are registered"),
            "let the server fork to all of them, so that each device rings",
        );
    }
}

fn look_at_extensions(granted: &Message, keeps_path: bool, report: &mut Report) {
    if keeps_path && granted.has(Name::Path) {
        report.good(STEP, "it keeps Path (RFC 3327): an app can register through the relay and lend nothing (RFC 8599)")
    } else {
        report.note(STEP, "it does not keep Path (RFC 3327)", "lend the account; RFC 8599 needs Path");
    }
    if granted.lists(Name::Require, "outbound") || granted.lists(Name::Supported, "outbound") {
        report.good(STEP, "it knows flows (RFC 5626)");
    }
    if granted.elements(Name::FeatureCaps).any(|value| value.contains("+sip.pns")) {
        report.note(STEP, "it is a push proxy by itself (RFC 8599)", "");
    }
}

/// Whether a Contact that a relay has registered for a lent account is among those that an answer lists, and for how many seconds more, where that is told.
fn relays_contact(response: &Message) -> Option<Option<u64>> {
    let contacts = response.contacts();
    let is_relays = |uri: &str| Uri::parse(uri).and_then(|uri| uri.user).and_then(BindingId::parse).is_some();
    let found = contacts.iter().find(|contact| contact.target().is_some_and(is_relays))?;
    Some(found.params.value("expires").and_then(|value| value.trim_matches('"').parse().ok()))
}

/// The URIs of the Contacts that an answer lists.
fn contacts(response: &Message) -> BTreeSet<String> {
    response.contacts().iter().filter_map(|contact| contact.target().map(str::to_owned)).collect()
}

/// Hashes that were given do not fit the challenge, which a password always does.
fn unanswerable(error: Unanswerable) -> Ended {
    let (fault, remedy) = match error {
        Unanswerable::Realm => ("ha1 is of another realm", "make it of the realm that the server asks in, above"),
        Unanswerable::Algorithm | Unanswerable::Digest | Unanswerable::Challenge => (
            "ha1 holds no hash for the algorithm that the server asks for first",
            "make one of that algorithm, above, too",
        ),
    };
    Ended { fault: fault.to_owned(), remedy }
}

fn refused(status: u16, response: &Message) -> Ended {
    let remedy = match status {
        401 | 407 => {
            "the user name or the password is wrong, or what ha1 was made of; or the realm is another account's"
        }
        403 => "the account is not allowed to register from here: look at the server's rules for addresses and users",
        404 | 604 => "the server does not know this address of record",
        301 | 302 | 305 => "the account has moved: name the server that the answer does as its registrar",
        423 => "the lifetime is too short for the server",
        500..600 => "the server cannot serve now: look at its log",
        _ => "look at the SIP server's log",
    };
    let reason = response.text(Name::Warning).map(|warning| format!(" ({warning})")).unwrap_or_default();
    Ended { fault: format!("REGISTER is answered {status}{reason}"), remedy }
}
