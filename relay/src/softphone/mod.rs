//! A softphone that signals and carries no sound: registers at the edge by SIP over TLS, answers or declines, hangs up.
//!
//! The commands `sipwake device` and `sipwake canary` alone use it; the process that holds credentials never does.
//!
//! Invariant: one call at a time; a second one is busy. Everything runs in the task that asks. It answers a challenge for
//! its own REGISTER and no other.

pub mod caller;
mod dialog;

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::message::{Composer, Frame, FrameError, Framer, Limits, Message, Method, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Interval, interval, sleep_until, timeout};

use crate::net::stream::Stream;
use crate::random;
use crate::secret::InstanceSecret;
use dialog::{Call, Phase, Unacknowledged, sdp};

/// How long the edge may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The registration that is asked for, and when it is asked for again.
const EXPIRES_S: u32 = 3_600;
const REFRESH: Duration = Duration::from_secs(1_800);
/// How often the flow is kept alive (RFC 5626 §4.4.1).
const PING: Duration = Duration::from_secs(25);
/// How long the other side may take to answer a BYE.
const BYE_WITHIN: Duration = Duration::from_secs(10);
/// Methods that are answered.
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS";

/// The offer of a call without sound.
pub(super) fn offer(address: IpAddr) -> String {
    sdp(b"", address)
}

/// Why a connection broke; what a library has to say of an end without a word is nothing for a user.
fn broken(why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::UnexpectedEof => "the other side has closed it".to_owned(),
        _ => why.to_string(),
    }
}

/// Why the device is not on its line, or no call was as asked.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// The connection broke.
    #[error("the connection to the edge broke: {}", broken(.0))]
    Lost(io::Error),
    /// The edge closed it.
    #[error("the edge closed the connection")]
    Closed,
    /// The bytes are not SIP.
    #[error("what the edge sent is not SIP")]
    NotSip,
    /// The edge did not answer in time.
    #[error("the edge did not answer in time")]
    Timeout,
    /// The edge refused the registration.
    #[error("the edge refused the device with {0}")]
    Refused(u16),
    /// The call did not come, or not in time.
    #[error("no call came in time")]
    NoCall,
}

/// The treatment of calls.
pub(super) struct Answering {
    /// Answer; else decline.
    pub answer: bool,
    /// How long to ring before.
    pub ring: Duration,
    /// After what time to hang up an answered call; `None`: never by itself.
    pub talk: Option<Duration>,
    /// How many calls; 0: for ever.
    pub calls: u32,
    /// How long to wait for a call; `None`: for ever.
    pub wait: Option<Duration>,
}

/// Identity the device is.
pub(super) struct Identity {
    /// `sip:host:port;transport=tls`
    pub edge: String,
    /// `host` of the edge.
    pub host: String,
    /// The digest's user: the instance id.
    pub user: String,
    /// The digest's realm, which no challenge may differ from.
    pub realm: String,
    /// The digest's password.
    pub secret: InstanceSecret,
}

/// A device on its line.
pub(super) struct Softphone {
    who: Identity,
    stream: Stream,
    local: SocketAddr,
    framer: Framer,
    /// Came while something else was waited for.
    pending: VecDeque<Message>,
    ping: Interval,
    refresh_at: Instant,
    call_id: String,
    tag: String,
    cseq: u32,
}

impl Softphone {
    /// Registers over `stream`, which leads to the edge.
    pub(super) async fn register(who: Identity, stream: Stream) -> Result<Self, PhoneError> {
        let now = Instant::now();
        let local = stream.local_address().map_err(PhoneError::Lost)?;
        let framer = Framer::new(Limits::default());
        let (call_id, tag) = (token(), token());
        let (pending, ping) = (VecDeque::new(), interval(PING));
        let mut phone = Self { who, stream, local, framer, pending, ping, refresh_at: now, call_id, tag, cseq: 0 };
        phone.refresh(EXPIRES_S).await?;
        Ok(phone)
    }

    /// Leaves the edge.
    pub(super) async fn unregister(&mut self) -> Result<(), PhoneError> {
        self.refresh(0).await
    }

    /// Takes calls until as many were as asked. `say` is told each step.
    pub(super) async fn take_calls(&mut self, answering: &Answering, say: impl Fn(&str)) -> Result<(), PhoneError> {
        let mut call: Option<Call> = None;
        let mut done = 0;
        let mut waits_until = answering.wait.map(|wait| Instant::now() + wait);
        loop {
            let due = match &call {
                Some(call) => call.due(),
                None => waits_until,
            };
            let due = due.map_or(self.refresh_at, |due| due.min(self.refresh_at));
            let message = match self.pending.pop_front() {
                Some(message) => Some(message),
                None => tokio::select! {
                    message = self.read() => Some(message?),
                    () = sleep_until(due) => None,
                },
            };
            let ended = match message {
                Some(message) => self.on_message(&mut call, message, answering, &say).await?,
                None => self.on_time(&mut call, answering, waits_until, &say).await?,
            };
            if let Some(as_asked) = ended {
                call = None;
                done += u32::from(as_asked);
                waits_until = answering.wait.map(|wait| Instant::now() + wait);
                if answering.calls > 0 && done >= answering.calls {
                    return Ok(());
                }
            }
        }
    }

    /// Handles a message; `Some` when it has ended the call: whether it was as asked.
    async fn on_message(
        &mut self,
        call: &mut Option<Call>,
        message: Message,
        answering: &Answering,
        say: &impl Fn(&str),
    ) -> Result<Option<bool>, PhoneError> {
        let Some(method) = message.method() else {
            let of_bye = message.cseq().is_some_and(|(_, method)| method == "BYE");
            let is_final = message.status().is_some_and(|status| status >= 200);
            return Ok(match call.as_ref().map(|call| &call.phase) {
                Some(Phase::HangingUp(_)) if of_bye && is_final => {
                    say("hung up");
                    Some(true)
                }
                _ => None,
            });
        };
        let busy = call.is_some();
        let ours = call.as_mut().filter(|call| call.has(&message));
        match (method, ours) {
            (Method::Invite, Some(call)) => self.on_invite_again(call, &message).await?,
            (Method::Invite, None) if busy => self.respond(&message, 486, &token()).await?,
            (Method::Invite, None) => {
                let new = Call::new(message, token(), Instant::now() + answering.ring);
                say(&format!("call from {}", new.caller()));
                self.respond(&new.invite, 180, &new.tag).await?;
                *call = Some(new);
            }
            (Method::Ack, Some(call)) => match &mut call.phase {
                Phase::Declined => {
                    say("declined");
                    return Ok(Some(!answering.answer));
                }
                Phase::Answered { unacknowledged, .. } => *unacknowledged = None,
                _ => {}
            },
            (Method::Ack, None) => {}
            (Method::Cancel, Some(call)) if matches!(call.phase, Phase::Ringing(_)) => {
                self.respond(&message, 200, &call.tag).await?;
                self.respond(&call.invite, 487, &call.tag).await?;
                say("the caller gave up");
                return Ok(Some(false));
            }
            (Method::Bye, Some(call)) => {
                self.respond(&message, 200, &call.tag).await?;
                say("the caller hung up");
                return Ok(Some(answering.answer));
            }
            (Method::Options, _) => self.respond(&message, 200, &token()).await?,
            (Method::Bye | Method::Cancel, _) => self.respond(&message, 481, &token()).await?,
            _ => self.respond(&message, 405, &token()).await?,
        }
        Ok(None)
    }

    /// A re-INVITE is answered as the first one was.
    async fn on_invite_again(&mut self, call: &mut Call, invite: &Message) -> Result<(), PhoneError> {
        let in_dialog = invite.to().is_some_and(|to| to.tag().is_some());
        match &mut call.phase {
            Phase::Answered { unacknowledged, .. } if in_dialog => {
                let answer = self.answer_to(invite, &call.tag);
                *unacknowledged = Some(Unacknowledged::new(answer.clone(), Instant::now()));
                self.write(&answer).await
            }
            _ => Ok(()),
        }
    }

    /// Handles the deadlines that are due; `Some` when one has ended the call.
    async fn on_time(
        &mut self,
        call: &mut Option<Call>,
        answering: &Answering,
        waits_until: Option<Instant>,
        say: &impl Fn(&str),
    ) -> Result<Option<bool>, PhoneError> {
        let now = Instant::now();
        if self.refresh_at <= now {
            self.refresh(EXPIRES_S).await?;
        }
        let Some(call) = call else {
            return match waits_until.filter(|until| *until <= now) {
                Some(_) => Err(PhoneError::NoCall),
                None => Ok(None),
            };
        };
        match &mut call.phase {
            Phase::Ringing(until) if *until <= now && answering.answer => {
                let answer = self.answer_to(&call.invite, &call.tag);
                self.write(&answer).await?;
                say("answered");
                let until = answering.talk.map(|talk| now + talk);
                call.phase = Phase::Answered { unacknowledged: Some(Unacknowledged::new(answer, now)), until };
            }
            Phase::Ringing(until) if *until <= now => {
                self.respond(&call.invite, 603, &call.tag).await?;
                call.phase = Phase::Declined;
            }
            Phase::Answered { unacknowledged: Some(waiting), .. } if waiting.end <= now => {
                say("nobody acknowledged the answer");
                return Ok(Some(false));
            }
            Phase::Answered { until: Some(until), unacknowledged: None } if *until <= now => {
                let bye = call.bye(&self.via());
                call.phase = Phase::HangingUp(now + BYE_WITHIN);
                self.write(&bye).await?;
            }
            Phase::Answered { unacknowledged: Some(waiting), until } => {
                // Hanging up waits for the ACK.
                *until = until.map(|until| until.max(waiting.again));
                if waiting.again <= now {
                    let answer = waiting.answer.clone();
                    waiting.repeat(now);
                    self.write(&answer).await?;
                }
            }
            Phase::HangingUp(until) if *until <= now => {
                say("nobody answered the hang-up");
                return Ok(Some(false));
            }
            _ => {}
        }
        Ok(None)
    }

    /// A 200 with an answer to the offer.
    fn answer_to(&self, invite: &Message, tag: &str) -> Bytes {
        let body = sdp(invite.body(), self.local.ip());
        Composer::response(invite, 200, Composer::reason(200), Some(tag))
            .header(Name::Contact, self.contact())
            .header(Name::Allow, ALLOW)
            .body("application/sdp", body.as_bytes())
    }

    async fn respond(&mut self, request: &Message, status: u16, tag: &str) -> Result<(), PhoneError> {
        let response = Composer::response(request, status, Composer::reason(status), Some(tag))
            .header(Name::Contact, self.contact())
            .header(Name::Allow, ALLOW);
        self.write(&response.finish()).await
    }

    /// Registers for `expires` seconds; 0 leaves.
    async fn refresh(&mut self, expires: u32) -> Result<(), PhoneError> {
        let mut authorization: Option<String> = None;
        loop {
            let register = self.compose(expires, authorization.as_deref());
            self.write(&register).await?;
            let response = timeout(ANSWER_WITHIN, self.final_response()).await.map_err(|_| PhoneError::Timeout)??;
            let status = response.status().unwrap_or_default();
            match status {
                200..300 => {
                    self.refresh_at = Instant::now() + REFRESH;
                    return Ok(());
                }
                401 if authorization.is_none() => {
                    authorization = Some(self.credentials(&response).ok_or(PhoneError::Refused(status))?);
                }
                _ => return Err(PhoneError::Refused(status)),
            }
        }
    }

    fn compose(&mut self, expires: u32, authorization: Option<&str>) -> Bytes {
        self.cseq += 1;
        let Identity { edge, host, user, .. } = &self.who;
        Composer::request(Method::Register, edge)
            .header(Name::Via, self.via())
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<sip:{user}@{host}>;tag={}", self.tag))
            .header(Name::To, format_args!("<sip:{user}@{host}>"))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} REGISTER", self.cseq))
            .header(Name::Contact, self.contact())
            .header(Name::Expires, expires)
            .maybe(Name::Authorization, authorization)
            .finish()
    }

    fn credentials(&self, response: &Message) -> Option<String> {
        let values = response.values(Name::WwwAuthenticate).filter_map(|value| std::str::from_utf8(value).ok());
        let challenge = Challenge::topmost_supported(values, &[Hash::Sha256, Hash::Sha512_256, Hash::Md5])?;
        let Identity { edge, user, realm, secret, .. } = &self.who;
        if *challenge.realm != **realm {
            return None;
        }
        let ha1 = Ha1::compute(challenge.algorithm.hash, user, realm, secret.expose());
        let cnonce = token();
        let terms = DigestResponse { username: user, method: "REGISTER", uri: edge, cnonce: &cnonce, nc: 1, body: b"" };
        challenge.answer(&ha1, &terms).ok()
    }

    /// The final response to the REGISTER that was sent last; calls that come meanwhile wait.
    async fn final_response(&mut self) -> Result<Message, PhoneError> {
        loop {
            let message = self.read().await?;
            let ours =
                message.call_id() == Some(&self.call_id) && message.cseq().map(|(number, _)| number) == Some(self.cseq);
            match message.status() {
                Some(status) if ours && status >= 200 => return Ok(message),
                Some(_) => {}
                None => self.pending.push_back(message),
            }
        }
    }

    /// The next message. May be dropped at any await and asked again.
    async fn read(&mut self) -> Result<Message, PhoneError> {
        loop {
            match self.framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => {
                    if let Ok(message) = Message::parse(&bytes, &Limits::default()) {
                        return Ok(message);
                    }
                    continue;
                }
                Ok(Some(Frame::Ping)) => {
                    self.write(b"\r\n").await?;
                    continue;
                }
                Ok(Some(Frame::Pong | Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_))) => continue,
                Ok(None) => {}
                Err(FrameError::TooLong | FrameError::ContentLength | FrameError::NotSip) => {
                    return Err(PhoneError::NotSip);
                }
            }
            let mut buffer = [0; 4_096];
            let count = tokio::select! {
                count = self.stream.read(&mut buffer) => count.map_err(PhoneError::Lost)?,
                _ = self.ping.tick() => {
                    self.write(b"\r\n\r\n").await?;
                    continue;
                }
            };
            match count {
                0 => return Err(PhoneError::Closed),
                count => self.framer.push(&buffer[..count]),
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), PhoneError> {
        self.stream.write_all(bytes).await.map_err(PhoneError::Lost)?;
        self.stream.flush().await.map_err(PhoneError::Lost)
    }

    fn via(&self) -> String {
        format!("SIP/2.0/TLS {};branch=z9hG4bK{};rport", self.local, token())
    }

    fn contact(&self) -> impl Display {
        format!("<sip:{}@{};transport=tls>", self.who.user, self.local)
    }
}

/// 64 random bits in hex.
fn token() -> String {
    random::bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect()
}
