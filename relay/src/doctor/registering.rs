//! The step `register`: the REGISTERs of an examination, and what their answers say of the server.
//!
//! | asked | answered | then |
//! | --- | --- | --- |
//! | which Contacts there are, without a Contact and without credentials | 401, 407, 2xx | the same with credentials |
//! | the same | anything else, or nothing: some servers know no such question | an own Contact is taken away that is not there |
//! | which Contacts there are, with credentials | 2xx | what is listed; an own Contact, unless a relay has one there |
//! | the same | 401, 407 to an answer that is not old | the password is wrong |
//! | the same | anything else, or nothing | an own Contact: its answer counts |
//!
//! Each challenge on the way is answered as the relay answers it ([`Challenges`]).
//!
//! Invariant: a password is tried once in each realm, again only when its nonce was old, or after a question that a server does not know; the Contact that
//! was registered is taken away again.

use std::collections::BTreeSet;

use sip::auth::{Challenge, DigestResponse, Hash};
use sip::challenges::{Challenger, Challenges, Verdict};
use sip::id::BindingId;
use sip::message::{Message, Method, Name, Uri};

use super::line::token;
use super::refusals::{Ended, longer, refused, unanswerable};
use super::{Doctor, DoctorStep, Line, LineError, Patient, Report};
use crate::agent::digest::{Unanswerable, ha1_for};
use crate::agent::transport::upstreams::Route;
use crate::net::dns::resolve::Candidate;
use crate::secret::with_clean_stack;

const STEP: DoctorStep = DoctorStep::Register;
/// A lifetime below this means many refreshes and, without lending, many pushes, in seconds.
const SHORT_S: u64 = 120;

/// The REGISTERs of an examination.
pub(super) struct Registering<'a> {
    doctor: &'a Doctor,
    line: Line,
    /// The address behind the line.
    candidate: &'a Candidate,
    route: &'a Route,
    patient: &'a Patient,
    challenges: Challenges,
    /// The other challenges of the response that was answered last, for hashes that do not fit its first one.
    others: Vec<Challenge>,
    /// The realms that were told.
    realms: BTreeSet<Box<str>>,
}

impl<'a> Registering<'a> {
    pub fn new(
        doctor: &'a Doctor,
        line: Line,
        candidate: &'a Candidate,
        route: &'a Route,
        patient: &'a Patient,
    ) -> Self {
        let (challenges, others, realms) = (Challenges::default(), Vec::new(), BTreeSet::new());
        Self { doctor, line, candidate, route, patient, challenges, others, realms }
    }

    /// Without a Contact first; then, with the credentials, for the Contacts that there are, and for one of its own.
    pub async fn look(&mut self, report: &mut Report) -> Result<(), Ended> {
        let own = OwnContact::new(&self.line);
        let mut first = self.send(&[]).await;
        let lists = !tells_nothing(&first);
        if !lists {
            report.note(STEP, format!("a REGISTER without a Contact: {}", told(&first)), "the relay sends none such");
            first = self.send(&own.headers(0)).await;
        }
        let first = first?;
        match first.status().unwrap_or_default() {
            401 | 407 if self.is_to_answer(&first, report)? => {}
            200..300 => report.note(
                STEP,
                format!("{} without credentials", first.status().unwrap_or_default()),
                "whoever reaches this server registers anybody: ask for credentials",
            ),
            status => return Err(refused(status, &first, false)),
        }
        if self.patient.credentials.is_none() {
            report.note(STEP, "not tried any further", "give the password, or ha1, to see it registered");
            return Ok(());
        }
        let before = if lists { self.look_at_credentials(report).await? } else { None };
        if let Some(left) = before.as_ref().and_then(relays_contact) {
            let left = left.map(|seconds| format!(", for another {seconds} s")).unwrap_or_default();
            let what = format!("a relay has the account registered{left}: no other Contact is tried beside it");
            report.good(STEP, what);
            return Ok(());
        }
        self.look_at_own_contact(&own, before.as_ref().map(contacts), report).await
    }

    /// The answer to the credentials, which lists the Contacts; none from a server that does not know the question.
    async fn look_at_credentials(&mut self, report: &mut Report) -> Result<Option<Message>, Ended> {
        let answer = self.send_authorized(&[], report).await;
        if tells_nothing(&answer) {
            // Unless the answer to a Contact says otherwise.
            let is_wrong = |answer: &Message| matches!(answer.status(), Some(403 | 404 | 604));
            report.proof = answer.as_ref().is_ok_and(is_wrong).then_some(false);
            let what = format!("with credentials, a REGISTER without a Contact: {}", told(&answer));
            report.note(STEP, what, "the relay sends none such");
            self.challenges.begin();
            return Ok(None);
        }
        let answer = answer?;
        let status = answer.status().unwrap_or_default();
        if !(200..300).contains(&status) {
            report.proof = Some(false);
            return Err(refused(status, &answer, true));
        }
        report.proof = Some(true);
        report.good(STEP, "the credentials are accepted");
        self.challenges.begin();
        Ok(Some(answer))
    }

    /// Registers a Contact of its own beside those that were there `before`, and takes it away again. `None`: the server did not say which there were, nor
    /// whether the credentials are right.
    async fn look_at_own_contact(
        &mut self,
        own: &OwnContact,
        before: Option<BTreeSet<String>>,
        report: &mut Report,
    ) -> Result<(), Ended> {
        let wanted = self.doctor.register_expires.as_secs();
        let mut granted = self.send_authorized(&own.headers_with_path(wanted), report).await?;
        let (mut asked, mut followed, mut keeps_path) = (wanted, 0, true);
        loop {
            match granted.status() {
                Some(423) => {
                    asked = longer(&granted, asked, followed)?;
                    followed += 1;
                    let remedy = match followed {
                        1 => "the relay follows; upstream.register_expires may name as much",
                        _ => {
                            "the relay follows one 423 at a time, and is registered by a later try: let the first one name as much"
                        }
                    };
                    report.note(STEP, format!("it grants nothing below {asked} s"), remedy);
                }
                // A server may look at the extensions before the lifetime.
                Some(420) if keeps_path => keeps_path = false,
                _ => break,
            }
            let headers = if keeps_path { own.headers_with_path(asked) } else { own.headers(asked) };
            granted = self.send_again(&headers, report).await?;
        }
        let status = granted.status().unwrap_or_default();
        match (status, &before) {
            (200..300, Some(_)) => {}
            (200..300, None) => {
                report.proof = Some(true);
                report.good(STEP, "the credentials are accepted");
                report.note(
                    STEP,
                    "it does not say which Contacts there were before this one",
                    "where it keeps one Contact of an account, the one before gets no calls until it registers again: a phone when it is restarted, a relay with its next refresh",
                );
            }
            (_, Some(_)) => {
                let remedy = "the server may take no more Contacts of this account: raise its limit, or free one";
                return Err(Ended::new(format!("{status} to a further Contact"), remedy));
            }
            (_, None) => {
                if matches!(status, 401 | 403 | 404 | 407 | 604) {
                    report.proof = Some(false);
                }
                return Err(refused(status, &granted, true));
            }
        }
        look_at_lifetime(&granted, own, report);
        look_at_contacts(&granted, own, &before.unwrap_or_default(), report);
        look_at_extensions(&granted, keeps_path, report);
        let gone = self.send_again(&own.headers(0), report).await;
        if !gone.as_ref().is_ok_and(|gone| gone.status().is_some_and(|status| (200..300).contains(&status))) {
            let what = format!("the examination's own Contact could not be taken away: {}", told(&gone));
            report.note(STEP, what, "it runs out by itself");
        }
        Ok(())
    }

    /// Whether a 401 or 407 asks for something that is still to be answered. What a realm asks for is told once.
    fn is_to_answer(&mut self, response: &Message, report: &mut Report) -> Result<bool, Ended> {
        let allowed: &[Hash] = if self.doctor.allow_md5 {
            &[Hash::Sha256, Hash::Sha512_256, Hash::Md5]
        } else {
            &[Hash::Sha256, Hash::Sha512_256]
        };
        let challenger = if response.status() == Some(401) { Challenger::Registrar } else { Challenger::Proxy };
        match self.challenges.on_challenge(challenger, response, allowed) {
            Verdict::Answer { others } => {
                self.others = others;
                self.tell_realm(response, allowed, report);
                Ok(true)
            }
            Verdict::Refused => Ok(false),
            Verdict::Endless if challenges(response).any(|challenge| challenge.stale) => Err(Ended::new(
                "it calls each nonce old (stale=true), also one that it has just given",
                "by its own word the user name and the password are right (RFC 7616 §3.3): let a nonce serve for some seconds, and at each of its nodes",
            )),
            Verdict::Endless => Ok(false),
            Verdict::Unanswerable { .. } if !asks_by_digest(response) => Err(Ended::new(
                format!("{} without a digest challenge", response.status().unwrap_or_default()),
                "the relay answers Digest alone: let the server ask by it (RFC 8760), in WWW-Authenticate or Proxy-Authenticate",
            )),
            Verdict::Unanswerable { unreadable: true } => Err(Ended::new(
                "its digest challenge cannot be read",
                "write it as RFC 7616 §3.3 says: a realm and a nonce, commas between parameters, each with a value and once",
            )),
            Verdict::Unanswerable { unreadable: false } => Err(Ended::new(
                "its challenge is none that this relay answers",
                "offer SHA-256 (RFC 8760), or let the operator set upstream.allow_md5",
            )),
        }
    }

    fn tell_realm(&mut self, response: &Message, allowed: &[Hash], report: &mut Report) {
        let Some(Challenge { realm, .. }) = Challenge::topmost_supported(asked_for(response), allowed) else { return };
        let mut names: Vec<&str> = Vec::new();
        for challenge in challenges(response) {
            let name = challenge.algorithm.hash.as_str();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let what = format!("it asks for credentials in the realm {:?} ({})", &*realm, names.join(", "));
        if !self.realms.insert(realm) {
            return;
        }
        if names.iter().all(|name| *name == "MD5") {
            report.note(STEP, what, "MD5 alone: the server should offer SHA-256, too (RFC 8760)");
        } else {
            report.good(STEP, what);
        }
    }

    /// A REGISTER that was answered before, with another header: what its challenges ask for may be old by now.
    async fn send_again(&mut self, headers: &[(Name, String)], report: &mut Report) -> Result<Message, Ended> {
        self.challenges.begin();
        self.send_authorized(headers, report).await
    }

    /// A REGISTER with credentials, again as long as something on its way asks for others, or for a new nonce.
    async fn send_authorized(&mut self, headers: &[(Name, String)], report: &mut Report) -> Result<Message, Ended> {
        loop {
            let response = self.send(headers).await?;
            match response.status().unwrap_or_default() {
                401 | 407 if self.is_to_answer(&response, report)? => {}
                200..300 => {
                    self.challenges.on_success(&response);
                    return Ok(response);
                }
                _ => return Ok(response),
            }
        }
    }

    async fn send(&mut self, headers: &[(Name, String)]) -> Result<Message, Ended> {
        let mut headers = headers.to_vec();
        headers.extend(self.answers()?);
        let (registrar, aor) = (self.route.registrar(), &*self.patient.aor);
        match self.line.ask(Method::Register, registrar, aor, &headers).await {
            // Some servers end a connection behind each answer; the relay connects again.
            Err(error @ (LineError::Closed | LineError::Broken(_) | LineError::Tls(_))) => {
                let opened = self.doctor.open(self.candidate, self.route.verified_domain()).await;
                self.line = opened.map_err(|_| error)?;
                Ok(self.line.ask(Method::Register, registrar, aor, &headers).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// The answers to all challenges until now.
    fn answers(&mut self) -> Result<Vec<(Name, String)>, Ended> {
        let (mut answers, mut index) = (Vec::new(), 0);
        let Some((user, proof)) = &self.patient.credentials else { return Ok(answers) };
        while let (Some(challenger), Some((challenge, nc))) =
            (self.challenges.challenger(index), self.challenges.next_answer(index))
        {
            let cnonce = token();
            let answer = with_clean_stack(|| {
                let ha1 = ha1_for(user, proof, &challenge)?;
                let uri = self.route.registrar();
                let terms = DigestResponse { username: user, method: "REGISTER", uri, cnonce: &cnonce, nc, body: b"" };
                challenge.answer(&ha1, &terms).map_err(|_| Unanswerable::Challenge)
            });
            match answer {
                Ok(answer) => {
                    answers.push((challenger.credentials_header(), answer));
                    index += 1;
                }
                // There may be another one that the hashes fit.
                Err(error) if self.challenges.skip(index, &mut self.others).is_err() => {
                    return Err(unanswerable(error, self.realms.len()));
                }
                Err(_) => {}
            }
        }
        Ok(answers)
    }
}

/// What a response asks for.
fn asked_for(response: &Message) -> impl Iterator<Item = &str> {
    let of = |name| response.values(name).filter_map(|value| std::str::from_utf8(value).ok());
    of(Name::WwwAuthenticate).chain(of(Name::ProxyAuthenticate))
}

fn challenges(response: &Message) -> impl Iterator<Item = Challenge> {
    asked_for(response).filter_map(|value| Challenge::parse(value).ok())
}

fn asks_by_digest(response: &Message) -> bool {
    asked_for(response).any(|value| value.split_whitespace().next().is_some_and(|it| it.eq_ignore_ascii_case("Digest")))
}

/// Whether an answer to a question for the Contacts says nothing of the account: some servers take only REGISTERs with a Contact.
fn tells_nothing(answer: &Result<Message, Ended>) -> bool {
    match answer {
        Ok(answer) => !matches!(answer.status().unwrap_or_default(), 200..300 | 401 | 407),
        Err(ended) => ended.is_silence,
    }
}

/// The outcome of a REGISTER, in words.
fn told(answer: &Result<Message, Ended>) -> String {
    match answer {
        Ok(answer) => answer.status().unwrap_or_default().to_string(),
        Err(ended) => ended.fault.clone(),
    }
}

/// The examination's own Contact, registered as the relay registers: with an instance, and a flow (RFC 5626).
struct OwnContact {
    user: String,
    uri: String,
    instance: String,
}

impl OwnContact {
    fn new(line: &Line) -> Self {
        let user = format!("doctor-{}", token());
        Self {
            uri: line.contact(&user),
            user,
            instance: format!("urn:uuid:00000000-0000-4000-8000-{}", &token()[..12]),
        }
    }

    /// Whether a Contact that a server lists is this one, also where it has written another host into it.
    fn is(&self, listed: &str) -> bool {
        Uri::user_of(listed) == Some(&*self.user)
    }

    fn headers(&self, expires: u64) -> Vec<(Name, String)> {
        let Self { uri, instance, .. } = self;
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

fn look_at_lifetime(granted: &Message, own: &OwnContact, report: &mut Report) {
    let ours = granted
        .contacts()
        .iter()
        .find(|it| it.target().is_some_and(|uri| own.is(uri)))
        .and_then(|it| it.params.value("expires").and_then(|value| value.trim_matches('"').parse().ok()));
    let seconds = ours.or(granted.number(Name::Expires).map(u64::from));
    match seconds {
        Some(0) => report.bad(
            STEP,
            "registered for 0 s",
            "the server takes the Contact away at once: look at its log, and at the account's limits",
        ),
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
fn look_at_contacts(granted: &Message, own: &OwnContact, before: &BTreeSet<String>, report: &mut Report) {
    let now = contacts(granted);
    let lost = before.difference(&now).count();
    let others = now.iter().filter(|contact| !own.is(contact)).count();
    if lost > 0 {
        report.note(
            STEP,
            format!("this Contact took the place of {lost} other(s), which get no calls until they register again"),
            "restart those phones. The server limits the Contacts of an account, and the relay's would take their place as well: raise the limit. Devices of one app share the relay's",
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use sip::message::{Composer, Limits};
    use tokio::net::UdpSocket;

    use super::*;
    use crate::config::Config;
    use crate::doctor::Verdict as Found;
    use crate::net::Transport;
    use crate::secret::Password;
    use crate::vault::record::Proof;

    type Answer = (u16, Vec<(Name, String)>);

    /// The findings about a SIP server that answers like this, and its REGISTERs.
    async fn examine(mut answer: impl FnMut(&Message) -> Answer + Send + 'static) -> (Report, Vec<Message>) {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = server.local_addr().expect("it has one");
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let log = seen.clone();
        let serving = tokio::spawn(async move {
            let mut buffer = vec![0; 4_096];
            loop {
                let (count, from) = server.recv_from(&mut buffer).await.expect("a datagram");
                let asked = Message::parse(&Bytes::copy_from_slice(&buffer[..count]), &Limits::default());
                let asked = asked.expect("a request");
                let (status, headers) = answer(&asked);
                log.lock().expect("nobody panics").push(asked.clone());
                let said = Composer::response(&asked, status, Composer::reason(status), Some("t"));
                let said = headers.iter().fold(said, |said, (name, value)| said.header(*name, value));
                server.send_to(&said.finish(), from).await.expect("sent");
            }
        });
        let doctor = Doctor::new(&Config::development().expect("it has no problem").upstream).expect("names");
        let patient = Patient {
            aor: "sip:alice@example.net".into(),
            registrar: Some(format!("sip:{address};transport=udp").into()),
            outbound_proxy: None,
            credentials: Some(("alice".into(), Proof::Password(Password::new("wonderland")))),
        };
        let route = Route::to(&patient.aor, patient.registrar.as_deref(), None).expect("a route");
        let candidate = Candidate { address, transport: Transport::Udp, rank: 0 };
        let line = Line::by_datagrams(address).await.expect("a socket");
        let mut report = Report::default();
        let looked = Registering::new(&doctor, line, &candidate, &route, &patient).look(&mut report).await;
        if let Err(Ended { fault, remedy, .. }) = looked {
            report.bad(STEP, fault, remedy);
        }
        serving.abort();
        let seen = seen.lock().expect("nobody panics").clone();
        (report, seen)
    }

    fn challenge(realm: &str, nonce: usize) -> String {
        format!("Digest realm=\"{realm}\", nonce=\"n{nonce}\", algorithm=SHA-256, qop=\"auth\"")
    }

    /// The answer of a registrar that lists the Contact it was asked for.
    fn granted(asked: &Message) -> Answer {
        (200, asked.text(Name::Contact).map(|it| (Name::Contact, it.to_owned())).into_iter().collect())
    }

    fn nonce(asked: &Message, name: Name) -> Option<&str> {
        asked.text(name)?.split_once("nonce=\"")?.1.split('"').next()
    }

    fn proofs(seen: &[Message]) -> usize {
        seen.iter().filter(|it| it.has(Name::Authorization) || it.has(Name::ProxyAuthorization)).count()
    }

    #[tokio::test]
    async fn each_challenge_on_the_way_is_answered() {
        let (report, seen) =
            examine(|asked| match (asked.has(Name::ProxyAuthorization), asked.has(Name::Authorization)) {
                (false, _) => (407, vec![(Name::ProxyAuthenticate, challenge("proxy", 1))]),
                (true, false) => (401, vec![(Name::WwwAuthenticate, challenge("registrar", 2))]),
                (true, true) => granted(asked),
            })
            .await;
        assert!(report.is_healthy() && report.proof == Some(true), "{report}");
        assert_eq!(report.to_string().matches("it asks for credentials in the realm").count(), 2, "{report}");
        // The two questions, a Contact and its end.
        assert_eq!((seen.len(), proofs(&seen)), (5, 4));
    }

    #[tokio::test]
    async fn a_nonce_that_serves_once_is_no_wrong_password() {
        for refreshes in [1, 2] {
            let (mut nonces, mut left) = (0, 0);
            let (report, seen) = examine(move |asked| {
                if left > 0 && nonce(asked, Name::Authorization) == Some(&*format!("n{nonces}")) {
                    left -= 1;
                    return granted(asked);
                }
                (nonces, left) = (nonces + 1, refreshes);
                (401, vec![(Name::WwwAuthenticate, challenge("registrar", nonces))])
            })
            .await;
            assert!(report.is_healthy() && report.proof == Some(true), "{report}");
            let last = seen.last().and_then(|it| it.text(Name::Contact)).unwrap_or_default();
            assert!(last.ends_with("expires=0") && !report.to_string().contains("could not be taken away"), "{report}");
        }
    }

    #[tokio::test]
    async fn a_wrong_password_is_tried_once_and_where_a_question_is_refused_with_a_contact_once_more() {
        for (status, tries) in [(401, 1), (403, 2), (404, 2)] {
            let mut nonces = 0;
            let (report, seen) = examine(move |asked| {
                nonces += 1;
                if asked.has(Name::Authorization) && status != 401 {
                    return (status, Vec::new());
                }
                (401, vec![(Name::WwwAuthenticate, challenge("registrar", nonces))])
            })
            .await;
            assert!(!report.is_healthy() && report.proof == Some(false), "{status} {report}");
            assert_eq!(proofs(&seen), tries, "{status} {report}");
        }
    }

    #[tokio::test]
    async fn a_server_that_knows_no_register_without_a_contact_is_found_well() {
        for (status, is_asked_first) in
            [(400, false), (403, false), (404, false), (400, true), (403, true), (404, true)]
        {
            let (report, seen) = examine(move |asked| {
                let is_proven = asked.has(Name::Authorization);
                if !asked.has(Name::Contact) && (is_proven || !is_asked_first) {
                    (status, Vec::new())
                } else if is_proven {
                    granted(asked)
                } else {
                    (401, vec![(Name::WwwAuthenticate, challenge("registrar", 1))])
                }
            })
            .await;
            assert!(report.is_healthy() && report.proof == Some(true), "{status} {report}");
            assert!(
                report.findings.iter().any(|it| it.verdict == Found::Note && it.what.contains("without a Contact"))
            );
            let last = seen.last().and_then(|it| it.text(Name::Contact)).unwrap_or_default();
            assert!(last.ends_with("expires=0"), "{last}");
        }
    }

    #[tokio::test]
    async fn a_refusal_of_the_question_counts_where_nothing_else_says_whether_the_password_is_right() {
        for (question, contact, proof) in [(403, 503, Some(false)), (400, 503, None), (404, 200, Some(true))] {
            let (report, _) = examine(move |asked| match (asked.has(Name::Authorization), asked.has(Name::Contact)) {
                (false, _) => (401, vec![(Name::WwwAuthenticate, challenge("registrar", 1))]),
                (true, false) => (question, Vec::new()),
                (true, true) if contact == 200 => granted(asked),
                (true, true) => (contact, Vec::new()),
            })
            .await;
            assert_eq!(report.proof, proof, "{question} {contact} {report}");
        }
    }

    /// The Min-Expires of its 423s, and what is found.
    #[tokio::test]
    async fn a_423_is_followed_as_the_relay_does_and_one_that_cannot_be_is_named() {
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["1800"], None),
            (&["1800", "3600"], None),
            (&["420", "1800"], None),
            (&["99999999"], Some("it grants nothing below 99999999 s")),
            (&[""], Some("without a Min-Expires")),
            (&["60"], Some("its Min-Expires is 60")),
            (&["700", "800", "900", "1000", "1100", "1200"], Some("as to 4 shorter ones before")),
        ];
        for (wanted, fault) in cases {
            let mut left = wanted.iter();
            let (report, _) = examine(move |asked| match (asked.has(Name::Authorization), asked.text(Name::Contact)) {
                (false, _) => (401, vec![(Name::WwwAuthenticate, challenge("registrar", 1))]),
                (true, Some(contact)) if !contact.ends_with("expires=0") => match left.next() {
                    Some(&"") => (423, Vec::new()),
                    Some(&"420") => (420, Vec::new()),
                    Some(least) => (423, vec![(Name::MinExpires, (*least).to_owned())]),
                    None => granted(asked),
                },
                (true, _) => granted(asked),
            })
            .await;
            assert_eq!(report.is_healthy(), fault.is_none(), "{wanted:?} {report}");
            let says = fault.unwrap_or(wanted[wanted.len() - 1]);
            assert!(report.to_string().contains(says) && !report.to_string().contains("more Contacts"), "{report}");
        }
    }

    #[tokio::test]
    async fn what_no_password_answers_is_no_wrong_password() {
        let stale = format!("{}, stale=true", challenge("registrar", 1));
        for (asks, fault) in [
            (Some(stale.as_str()), "calls each nonce old"),
            (Some("Bearer realm=\"registrar\""), "401 without a digest challenge"),
            (None, "401 without a digest challenge"),
        ] {
            let header: Vec<_> = asks.map(|it| (Name::WwwAuthenticate, it.to_owned())).into_iter().collect();
            let (report, _) = examine(move |_| (401, header.clone())).await;
            let told = report.to_string();
            assert!(!report.is_healthy() && told.contains(fault) && !told.contains("is wrong"), "{asks:?} {told}");
            assert_eq!(report.proof, None, "{asks:?}");
        }
    }

    #[tokio::test]
    async fn a_contact_that_is_granted_no_time_is_none() {
        let (report, _) = examine(|asked| match (asked.has(Name::Authorization), asked.text(Name::Contact)) {
            (false, _) => (401, vec![(Name::WwwAuthenticate, challenge("registrar", 1))]),
            (true, None) => (200, Vec::new()),
            (true, Some(_)) => (200, vec![(Name::Expires, "0".to_owned())]),
        })
        .await;
        assert!(!report.is_healthy(), "{report}");
    }
}
