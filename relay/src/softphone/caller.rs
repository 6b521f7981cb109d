//! Calling somebody: INVITE, ringing, answer, BYE, over one TCP connection to a SIP server.
//!
//! For trying a relay: it registers nowhere and answers no challenge. It signals only, as the softphone does.
//!
//! Invariant: a call that was begun is ended, however it goes: by BYE, by CANCEL, or by the other side.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use sip::message::{Composer, Frame, Framer, Limits, Message, Method, Name, Party};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::dialog::sdp;
use super::token;
use crate::net::dial::{self, DialError};
use crate::net::stream::Stream;

/// How long a server may take to say anything.
const ANSWER_WITHIN: Duration = Duration::from_secs(32);
/// How long the end of a call may take.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Why a call did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The SIP server could not be reached.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection to the SIP server broke: {}", super::broken(.0))]
    Lost(io::Error),
    /// The bytes are not SIP.
    #[error("what the SIP server sent is not SIP")]
    NotSip,
    /// The SIP server said nothing.
    #[error("the SIP server did not answer in time")]
    Timeout,
    /// A final response other than 2xx.
    #[error("the call was not answered: {0} {1}")]
    Refused(u16, String),
    /// The callee did not answer in the time that was given.
    #[error("nobody answered in time")]
    NoAnswer,
}

/// The callee, and for how long to call.
pub(crate) struct Called<'a> {
    /// The Request-URI and To.
    pub to: &'a str,
    /// The From.
    pub from: &'a str,
    /// How long to talk before hanging up, once it was answered; `None`: the other side hangs up.
    pub talk: Option<Duration>,
    /// How long to let it ring.
    pub wait: Duration,
}

/// A call that is under way.
struct Calling<'a> {
    called: &'a Called<'a>,
    stream: Stream,
    framer: Framer,
    local: SocketAddr,
    call_id: String,
    tag: String,
    /// Of the INVITE: its CANCEL and the ACK of its refusal have the same.
    branch: String,
}

/// Places a call through the SIP server at `server`, and stays until it is over, or until `stop` comes back and it is ended. `say`
/// is told each step.
///
/// # Errors
/// [`CallError`] when nobody answered.
pub(crate) async fn call(
    server: SocketAddr,
    called: &Called<'_>,
    stop: impl Future<Output = ()>,
    say: impl Fn(&str),
) -> Result<(), CallError> {
    let mut stop = pin!(stop);
    let stream = dial::tcp(server).await?;
    let local = stream.local_address().map_err(CallError::Lost)?;
    let framer = Framer::new(Limits::default());
    let branch = format!("z9hG4bK{}", token());
    let mut calling = Calling { called, stream, framer, local, call_id: token(), tag: token(), branch };
    let invite = calling
        .request(Method::Invite, called.to, "1 INVITE", &calling.branch, None)
        .header(Name::Contact, calling.contact())
        .body("application/sdp", sdp(b"", local.ip()).as_bytes());
    calling.write(&invite).await?;
    let answer = tokio::select! {
        answer = timeout(called.wait, calling.answer(&say)) => answer,
        () = &mut stop => {
            say("gave up");
            return calling.give_up().await;
        }
    };
    let Ok(answer) = answer else {
        calling.give_up().await?;
        return Err(CallError::NoAnswer);
    };
    calling.talk(&answer?, stop, &say).await
}

impl Calling<'_> {
    /// The 2xx to the INVITE.
    async fn answer(&mut self, say: &impl Fn(&str)) -> Result<Message, CallError> {
        let mut heard = false;
        loop {
            let wait = if heard { self.called.wait } else { ANSWER_WITHIN };
            let message = timeout(wait, self.read()).await.map_err(|_| CallError::Timeout)??;
            let Some(status) = message.status().filter(|_| is_of(&message, "INVITE")) else { continue };
            match status {
                100 => heard = true,
                101..200 => {
                    heard = true;
                    say(&format!("{status} {}", message.reason().unwrap_or_default()));
                }
                200..300 => return Ok(message),
                _ => {
                    self.acknowledge_refusal(&message).await?;
                    return Err(CallError::Refused(status, message.reason().unwrap_or_default().to_owned()));
                }
            }
        }
    }

    /// From the answer to the end.
    async fn talk(
        &mut self,
        answer: &Message,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        say: &impl Fn(&str),
    ) -> Result<(), CallError> {
        let contacts = answer.contacts();
        let target = contacts.first().and_then(Party::target).unwrap_or(self.called.to).to_owned();
        let to = |method, cseq: &str, calling: &Self| {
            let branch = format!("z9hG4bK{}", token());
            calling.request(method, &target, cseq, &branch, Some(answer)).finish()
        };
        let ack = to(Method::Ack, "1 ACK", self);
        self.write(&ack).await?;
        say("answered");
        let mut ends = self.called.talk.map(|talk| Instant::now() + talk);
        let mut hanging_up = false;
        loop {
            let due = ends.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
            let message = tokio::select! {
                message = self.read() => Some(message?),
                () = sleep_until(due), if ends.is_some() => None,
                () = &mut stop, if !hanging_up => None,
            };
            match message {
                None if hanging_up => return Ok(()),
                None => {
                    let bye = to(Method::Bye, "2 BYE", self);
                    self.write(&bye).await?;
                    (hanging_up, ends) = (true, Some(Instant::now() + END_WITHIN));
                }
                Some(message) if message.method() == Some(Method::Bye) => {
                    self.respond(&message, 200).await?;
                    say("the other side hung up");
                    return Ok(());
                }
                Some(message) if hanging_up && is_of(&message, "BYE") => {
                    say("hung up");
                    return Ok(());
                }
                // The 2xx again: its ACK was lost.
                Some(message) if is_of(&message, "INVITE") => self.write(&ack).await?,
                Some(message) if message.is_request() && message.method() != Some(Method::Ack) => {
                    self.respond(&message, if message.method() == Some(Method::Options) { 200 } else { 488 }).await?;
                }
                Some(_) => {}
            }
        }
    }

    /// CANCEL, and the 487 that follows.
    async fn give_up(&mut self) -> Result<(), CallError> {
        let cancel = self.request(Method::Cancel, self.called.to, "1 CANCEL", &self.branch, None).finish();
        self.write(&cancel).await?;
        let ended = timeout(END_WITHIN, async {
            loop {
                let message = self.read().await?;
                if is_of(&message, "INVITE") && message.status().is_some_and(|status| status >= 300) {
                    return self.acknowledge_refusal(&message).await;
                }
            }
        });
        ended.await.unwrap_or(Ok(()))
    }

    async fn acknowledge_refusal(&mut self, refusal: &Message) -> Result<(), CallError> {
        let to = refusal.text(Name::To).unwrap_or_default().to_owned();
        let ack = self.begun(Method::Ack, self.called.to, "1 ACK", &self.branch).header(Name::To, to).finish();
        self.write(&ack).await
    }

    fn request(&self, method: Method, uri: &str, cseq: &str, branch: &str, in_dialog: Option<&Message>) -> Composer {
        let mut request = self.begun(method, uri, cseq, branch);
        let Some(answer) = in_dialog else { return request.header(Name::To, format_args!("<{}>", self.called.to)) };
        // The caller's route is the Record-Route backwards (RFC 3261 §12.1.2).
        let routes: Vec<&str> = answer.elements(Name::RecordRoute).collect();
        for route in routes.into_iter().rev() {
            request = request.header(Name::Route, route);
        }
        request.header(Name::To, answer.text(Name::To).unwrap_or_default())
    }

    fn begun(&self, method: Method, uri: &str, cseq: &str, branch: &str) -> Composer {
        Composer::request(method, uri)
            .header(Name::Via, format_args!("SIP/2.0/TCP {};branch={branch};rport", self.local))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<{}>;tag={}", self.called.from, self.tag))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, cseq)
    }

    async fn respond(&mut self, request: &Message, status: u16) -> Result<(), CallError> {
        let response = Composer::response(request, status, Composer::reason(status), Some(&self.tag)).finish();
        self.write(&response).await
    }

    fn contact(&self) -> String {
        format!("<sip:{};transport=tcp>", self.local)
    }

    /// The next message. May be dropped at any await and asked again.
    async fn read(&mut self) -> Result<Message, CallError> {
        loop {
            match self.framer.next_frame() {
                Ok(Some(Frame::Message(bytes))) => {
                    if let Ok(message) = Message::parse(&bytes, &Limits::default()) {
                        return Ok(message);
                    }
                }
                Ok(Some(_)) => {}
                Err(_) => return Err(CallError::NotSip),
                Ok(None) => {
                    let mut buffer = [0; 4_096];
                    match self.stream.read(&mut buffer).await.map_err(CallError::Lost)? {
                        0 => return Err(CallError::Lost(io::ErrorKind::UnexpectedEof.into())),
                        count => self.framer.push(&buffer[..count]),
                    }
                }
            }
        }
    }

    async fn write(&mut self, bytes: &Bytes) -> Result<(), CallError> {
        self.stream.write_all(bytes).await.map_err(CallError::Lost)?;
        self.stream.flush().await.map_err(CallError::Lost)
    }
}

/// Whether it is a response to a request of this method.
fn is_of(message: &Message, method: &str) -> bool {
    !message.is_request() && message.cseq().is_some_and(|(_, of)| of == method)
}
