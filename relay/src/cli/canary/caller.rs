//! The caller of a canary: places a call through the SIP server, as any phone of the domain does.
//!
//! Invariant: one call at a time, and it is ended, however it goes. All its messages go to its SIP server, by one
//! connection. It answers a challenge once.

use std::time::Duration;

use bytes::Bytes;
use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::message::{Composer, Message, Method, Name, Party};
use tokio::time::{Instant, timeout_at};

use crate::doctor::{Line, LineError, token};
use crate::secret::{Password, with_clean_stack};
use crate::softphone;

/// The first wait for a response by datagrams (RFC 3261 §17.1.1.2); twice as long each time.
const T1: Duration = Duration::from_millis(500);
/// How long a call may ring.
const RING_WITHIN: Duration = Duration::from_secs(90);
/// How long any other request may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The account of the caller.
pub(super) struct Identity {
    pub aor: String,
    pub username: String,
    pub password: Password,
}

/// Why there is no call.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The connection, or silence.
    #[error("the SIP server: {0}")]
    Line(#[from] LineError),
    /// A final response but 2xx.
    #[error("the SIP server answers {0}")]
    Refused(u16),
    /// Its challenge cannot be answered.
    #[error("the SIP server asks for credentials in a way that is not understood")]
    Challenge,
}

/// A caller on its line.
pub(super) struct Caller<'a> {
    line: Line,
    who: &'a Identity,
    callee: &'a str,
    call_id: String,
    tag: String,
    cseq: u32,
    /// The branch of the INVITE that has no final response.
    ringing: Option<String>,
    dialog: Option<Dialog>,
}

/// The route of the dialog, from the 2xx (RFC 3261 §12.1.2).
struct Dialog {
    to: String,
    target: String,
    routes: Vec<String>,
    /// The number of the INVITE, which its ACK has.
    invite: u32,
}

impl<'a> Caller<'a> {
    pub(super) fn new(line: Line, who: &'a Identity, callee: &'a str) -> Self {
        Self { line, who, callee, call_id: token(), tag: token(), cseq: 0, ringing: None, dialog: None }
    }

    /// Calls until the call is answered, and acknowledges that.
    pub(super) async fn ring(&mut self) -> Result<(), CallError> {
        let mut credentials: Option<(Name, String)> = None;
        loop {
            self.cseq += 1;
            let branch = token();
            let offer = softphone::offer(self.line.local().ip());
            let mut invite = self
                .request(Method::Invite, self.callee, &branch, &format!("<{}>", self.callee))
                .header(Name::Contact, format_args!("<{}>", self.line.contact("canary")))
                .header(Name::Allow, "INVITE, ACK, CANCEL, BYE");
            let shown = credentials.is_some();
            if let Some((name, value)) = credentials.take() {
                invite = invite.header(name, value);
            }
            let invite = invite.body("application/sdp", offer.as_bytes());
            self.ringing = Some(branch.clone());
            let response = self.final_response(&invite, Method::Invite, RING_WITHIN).await?;
            self.ringing = None;
            let status = response.status().unwrap_or_default();
            if (200..300).contains(&status) {
                self.dialog = Some(Dialog::of(&response, self.callee, self.cseq));
                return self.acknowledge().await;
            }
            let to = response.text(Name::To).unwrap_or_default().to_owned();
            let refused = self.request(Method::Ack, self.callee, &branch, &to).finish();
            self.line.send(&refused).await?;
            match status {
                401 | 407 if !shown => credentials = Some(self.credentials(&response).ok_or(CallError::Challenge)?),
                status => return Err(CallError::Refused(status)),
            }
        }
    }

    /// Ends the call.
    pub(super) async fn hang_up(&mut self) -> Result<(), CallError> {
        let Some(dialog) = &self.dialog else { return Ok(()) };
        let (to, target) = (dialog.to.clone(), dialog.target.clone());
        let routes = dialog.routes.clone();
        self.cseq += 1;
        let bye = self.request(Method::Bye, &target, &token(), &to);
        let bye = routes.iter().fold(bye, |bye, route| bye.header(Name::Route, route)).finish();
        let response = self.final_response(&bye, Method::Bye, ANSWER_WITHIN).await?;
        self.dialog = None;
        match response.status().unwrap_or_default() {
            200..300 => Ok(()),
            status => Err(CallError::Refused(status)),
        }
    }

    /// Leaves nothing ringing and nobody in a call.
    pub(super) async fn give_up(&mut self) {
        // The call ends by itself, later, when the server is not reached.
        let _ = match self.ringing.take() {
            Some(branch) => {
                let cancel = self.request(Method::Cancel, self.callee, &branch, &format!("<{}>", self.callee));
                let cancel = cancel.finish();
                self.final_response(&cancel, Method::Cancel, ANSWER_WITHIN).await.map(drop)
            }
            None => self.hang_up().await,
        };
    }

    fn request(&self, method: Method, uri: &str, branch: &str, to: &str) -> Composer {
        let number = match (&self.dialog, method) {
            (Some(dialog), Method::Ack) => dialog.invite,
            _ => self.cseq,
        };
        Composer::request(method, uri)
            .header(Name::Via, self.line.via(branch))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("\"sipwake canary\" <{}>;tag={}", self.who.aor, self.tag))
            .header(Name::To, to)
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{number} {method}"))
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION"), " canary"))
    }

    async fn acknowledge(&mut self) -> Result<(), CallError> {
        let Some(dialog) = &self.dialog else { return Ok(()) };
        let ack = self.request(Method::Ack, &dialog.target, &token(), &dialog.to);
        let ack = dialog.routes.iter().fold(ack, |ack, route| ack.header(Name::Route, route)).finish();
        Ok(self.line.send(&ack).await?)
    }

    fn credentials(&self, response: &Message) -> Option<(Name, String)> {
        let (asked, shown) = match response.status() {
            Some(407) => (Name::ProxyAuthenticate, Name::ProxyAuthorization),
            _ => (Name::WwwAuthenticate, Name::Authorization),
        };
        let values = response.values(asked).filter_map(|value| std::str::from_utf8(value).ok());
        let challenge = Challenge::topmost_supported(values, &[Hash::Sha256, Hash::Sha512_256, Hash::Md5])?;
        let Identity { username, password, .. } = self.who;
        let cnonce = token();
        with_clean_stack(|| {
            let ha1 = Ha1::compute(challenge.algorithm.hash, username, &challenge.realm, password.expose());
            let terms =
                DigestResponse { username, method: "INVITE", uri: self.callee, cnonce: &cnonce, nc: 1, body: b"" };
            challenge.answer(&ha1, &terms).ok().map(|answer| (shown, answer))
        })
    }

    /// Sends a request and waits for its final response. By datagrams it is sent again until the first response.
    async fn final_response(
        &mut self,
        request: &Bytes,
        method: Method,
        within: Duration,
    ) -> Result<Message, CallError> {
        let end = Instant::now() + within;
        let (mut wait, mut again) = (T1, Instant::now() + T1);
        if !self.line.is_datagrams() {
            again = end;
        }
        self.line.send(request).await?;
        loop {
            let Ok(message) = timeout_at(again.min(end), self.line.next()).await else {
                if Instant::now() >= end {
                    return Err(LineError::Silent.into());
                }
                self.line.send(request).await?;
                wait *= 2;
                again = Instant::now() + wait;
                continue;
            };
            let message = message?;
            let Some(status) = message.status() else { continue };
            let (number, of) = message.cseq().unwrap_or_default();
            if message.call_id() != Some(&self.call_id) {
                continue;
            }
            let again_answered = of == "INVITE" && self.dialog.as_ref().is_some_and(|dialog| dialog.invite == number);
            if again_answered && (200..300).contains(&status) {
                self.acknowledge().await?;
            } else if number == self.cseq && of == method.as_str() {
                if status >= 200 {
                    return Ok(message);
                }
                again = end;
            }
        }
    }
}

impl Dialog {
    fn of(response: &Message, callee: &str, invite: u32) -> Self {
        let routes = response.elements(Name::RecordRoute).map(str::to_owned).collect::<Vec<_>>();
        let contacts = response.contacts();
        Self {
            to: response.text(Name::To).unwrap_or_default().to_owned(),
            target: contacts.first().and_then(Party::target).unwrap_or(callee).to_owned(),
            routes: routes.into_iter().rev().collect(),
            invite,
        }
    }
}
