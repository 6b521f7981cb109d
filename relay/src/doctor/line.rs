//! One connection to a SIP server, by which it is asked.
//!
//! Invariant: one request at a time, each with a transaction of its own; a wait ends within [`ANSWER_WITHIN`]. A request that comes
//! meanwhile is answered 480 at once: for a moment the account has a Contact that nobody is at, and a caller does not wait for it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use sip::message::{Composer, Frame, Framer, Limits, Message, Method, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::net::Transport;
use crate::net::stream::Stream;
use crate::net::tls_fault::TlsFault;
use crate::random;

/// How long a SIP server may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// How soon a datagram is sent again, twice as long each time.
const AGAIN: Duration = Duration::from_millis(500);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The system's word.
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    /// TLS broke it.
    #[error("the connection broke: {0}")]
    Tls(TlsFault),
    /// The SIP server closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// The bytes are not SIP.
    #[error("what it sent is not SIP")]
    NotSip,
    /// No response in time.
    #[error("it did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
}

impl From<std::io::Error> for LineError {
    fn from(error: std::io::Error) -> Self {
        match TlsFault::within(&error) {
            // The library's words for an end without close_notify are for its programmers.
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Broken(error),
            Some(fault) => Self::Tls(fault),
        }
    }
}

enum Socket {
    Stream(Box<Stream>, Framer),
    Datagrams(UdpSocket),
}

/// The connection.
pub struct Line {
    socket: Socket,
    transport: Transport,
    local: SocketAddr,
    call_id: String,
    tag: String,
    cseq: u32,
}

impl Line {
    /// By a stream.
    pub fn by_stream(stream: Stream, transport: Transport) -> Result<Self, LineError> {
        let local = stream.local_address()?;
        Ok(Self::new(Socket::Stream(Box::new(stream), Framer::new(Limits::default())), transport, local))
    }

    /// By datagrams to this address, from a socket of its own.
    pub async fn by_datagrams(peer: SocketAddr) -> Result<Self, LineError> {
        let any = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(peer).await?;
        let local = socket.local_addr()?;
        Ok(Self::new(Socket::Datagrams(socket), Transport::Udp, local))
    }

    fn new(socket: Socket, transport: Transport, local: SocketAddr) -> Self {
        Self { socket, transport, local, call_id: token(), tag: token(), cseq: 0 }
    }

    /// The URI by which it is reached, with this user.
    pub fn contact(&self, user: &str) -> String {
        format!("sip:{user}@{};transport={}", self.local, self.transport)
    }

    /// Sends a request of this AOR, and waits for its final response.
    ///
    /// # Errors
    /// [`LineError`] when there is none.
    pub async fn ask(
        &mut self,
        method: Method,
        uri: &str,
        aor: &str,
        headers: &[(Name, String)],
    ) -> Result<Message, LineError> {
        self.cseq += 1;
        let request = Composer::request(method, uri)
            .header(Name::Via, self.via(&token()))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<{aor}>;tag={}", self.tag))
            .header(Name::To, format_args!("<{aor}>"))
            .header(Name::CallId, &self.call_id)
            .header(Name::CSeq, format_args!("{} {method}", self.cseq))
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION"), " doctor"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value)).finish();
        let end = Instant::now() + ANSWER_WITHIN;
        let (mut again, mut wait) = (Instant::now(), AGAIN);
        self.send(&request).await?;
        if self.is_datagrams() {
            again += wait;
        } else {
            again = end;
        }
        loop {
            match timeout_at(again.min(end), self.next()).await {
                Ok(message) => {
                    let message = message?;
                    let ours = message.call_id() == Some(&self.call_id)
                        && message.cseq().is_some_and(|(number, of)| number == self.cseq && of == method.as_str());
                    if ours && message.status().is_some_and(|status| status >= 200) {
                        return Ok(message);
                    }
                    if let Some(refusal) = refusal(&message, &self.tag) {
                        // The examination waits for its answer, and not for a peer that asks meanwhile and reads nothing.
                        timeout_at(end, self.send(&refusal)).await.map_err(|_| LineError::Silent)??;
                    }
                }
                Err(_) if Instant::now() >= end => return Err(LineError::Silent),
                Err(_) => {
                    self.send(&request).await?;
                    wait *= 2;
                    again = Instant::now() + wait;
                }
            }
        }
    }

    /// This end of it.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether it is one of datagrams, which get lost.
    pub fn is_datagrams(&self) -> bool {
        matches!(self.socket, Socket::Datagrams(_))
    }

    /// The Via of a request with this branch, without what marks it as one of RFC 3261.
    pub fn via(&self, branch: &str) -> String {
        let transport = self.transport.to_string().to_ascii_uppercase();
        format!("SIP/2.0/{transport} {};branch=z9hG4bK{branch};rport", self.local)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`LineError`] when it cannot leave.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        match &mut self.socket {
            Socket::Datagrams(socket) => socket.send(bytes).await.map(drop)?,
            Socket::Stream(stream, _) => {
                stream.write_all(bytes).await?;
                stream.flush().await?;
            }
        }
        Ok(())
    }

    /// The next message; may be dropped at any await and asked again.
    ///
    /// # Errors
    /// [`LineError`] when none can come any more.
    pub async fn next(&mut self) -> Result<Message, LineError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match &mut self.socket {
                Socket::Datagrams(socket) => {
                    let count = socket.recv(&mut buffer).await?;
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    if let Ok(message) = Message::parse(&bytes, &Limits::default()) {
                        return Ok(message);
                    }
                }
                Socket::Stream(stream, framer) => {
                    match framer.next_frame() {
                        Err(_) => return Err(LineError::NotSip),
                        Ok(Some(Frame::Message(bytes))) => {
                            return Message::parse(&bytes, &Limits::default()).map_err(|_| LineError::NotSip);
                        }
                        Ok(Some(
                            Frame::Ping | Frame::Pong | Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_),
                        )) => continue,
                        Ok(None) => {}
                    }
                    match stream.read(&mut buffer).await? {
                        0 => return Err(LineError::Closed),
                        count => framer.push(&buffer[..count]),
                    }
                }
            }
        }
    }
}

/// The answer to a request; an ACK gets none.
fn refusal(message: &Message, tag: &str) -> Option<Bytes> {
    let refusable = message.method().is_some_and(|method| method != Method::Ack);
    refusable.then(|| Composer::response(message, 480, Composer::reason(480), Some(tag)).finish())
}

/// 64 random bits in hex.
pub fn token() -> String {
    random::bytes::<8>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_to_the_account_meanwhile_is_answered_480_at_once_and_the_answer_is_awaited_on() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut line = Line::by_datagrams(server.local_addr().unwrap()).await.unwrap();
        let contact = line.contact("doctor");
        let registrar = async {
            let mut buffer = vec![0; 4_096];
            let (count, from) = server.recv_from(&mut buffer).await.unwrap();
            let register = Message::parse(&Bytes::copy_from_slice(&buffer[..count]), &Limits::default()).unwrap();
            for method in ["INVITE", "ACK"] {
                let request = format!(
                    "{method} {contact} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKa\r\nFrom: <sip:b@c>;tag=1\r\nTo: <sip:a@c>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
                );
                server.send_to(request.as_bytes(), from).await.unwrap();
            }
            let (count, _) = server.recv_from(&mut buffer).await.unwrap();
            let refused = Message::parse(&Bytes::copy_from_slice(&buffer[..count]), &Limits::default()).unwrap();
            assert_eq!((refused.status(), refused.call_id()), (Some(480), Some("c")));
            server.send_to(&Composer::response(&register, 200, "OK", Some("t")).finish(), from).await.unwrap();
        };
        let asked = line.ask(Method::Register, "sip:c", "sip:a@c", &[]);
        let (answer, ()) = tokio::join!(asked, registrar);
        assert_eq!(answer.unwrap().status(), Some(200));
    }
}
