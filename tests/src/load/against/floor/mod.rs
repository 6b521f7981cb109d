//! The floor: a program that does the least possible work for a call that is pushed and cancelled.
//!
//! The floor reads a datagram, and for an INVITE writes one request to a connection that is open, then 180: by HTTP/1.1, or as APNs wants it, by
//! HTTP/2 over TLS. There is no account, no check, no timer: its cost is that of the system, of tokio and of the way of the push. `load` runs it as a
//! process of its own, so that its CPU is its own.

mod pushes;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use memchr::memmem;
use tokio::net::UdpSocket;

use self::pushes::Pushes;
use super::server::Server;
use crate::apns::Apns;
use crate::authority::Authority;
use crate::board::Missed;
use crate::child::Child;
use crate::scratch::Scratch;

/// The first argument of `load` that makes it the floor; the next ones say where pushes go.
const ARGUMENT: &str = "floor";
/// The text that the floor prints once it listens, before its address.
const READY: &str = "floor at ";
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(10);
/// A datagram at most, in bytes.
const MAX_DATAGRAM: usize = 65_535;

/// Starts one; its pushes go to `push` by HTTP/1.1.
///
/// # Errors
/// [`Missed`] when it does not start.
pub(super) async fn start(push: SocketAddr) -> Result<Server, Missed> {
    started(&[push.to_string()], "The floor").await
}

/// Starts one; its pushes go to `apns`, to which it shows a certificate.
///
/// # Errors
/// [`Missed`] when it does not start.
pub(super) async fn start_with_tls(authority: &Authority, apns: &Apns) -> Result<Server, Missed> {
    let identity = authority.write("floor.pem", &authority.issue(&[crate::apns::BUNDLE]).both());
    let file = |path: &Path| path.display().to_string();
    let arguments = [apns.port().to_string(), file(&authority.ca_file()), file(&identity)];
    started(&arguments, "The floor with HTTP/2 and TLS").await
}

async fn started(arguments: &[String], name: &str) -> Result<Server, Missed> {
    let own = std::env::current_exe().map_err(|error| Missed::new("the program itself", error.to_string()))?;
    let mut command = Command::new(own);
    command.arg(ARGUMENT).args(arguments);
    let child = Child::spawn(command, "")?;
    let line = child.await_line(READY, START_WITHIN).await?;
    let udp = line.trim_start_matches(READY).parse().map_err(|_| child.missed("its address"))?;
    Ok(Server { child, udp, tls: None, name: name.to_owned(), _scratch: Scratch::new() })
}

/// Is the floor until it is killed, if the arguments of this process say so.
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    arguments.next().filter(|first| first == ARGUMENT)?;
    let arguments: Vec<String> = arguments.collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(&arguments))) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("floor: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

async fn serve(arguments: &[String]) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut pushes = Pushes::open(arguments).await?;
    println!("{READY}{}", socket.local_addr()?);
    let mut held: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    let mut space = vec![0; MAX_DATAGRAM];
    loop {
        let (length, caller) = socket.recv_from(&mut space).await?;
        let message = &space[..length];
        if message.starts_with(b"INVITE ") {
            pushes.push(&user_of(message)).await?;
            socket.send_to(&answer(message, "180 Ringing"), caller).await?;
            held.insert(line_of(message, b"Call-ID:").to_vec(), message.to_vec());
        } else if message.starts_with(b"CANCEL ") {
            socket.send_to(&answer(message, "200 OK"), caller).await?;
            if let Some(invite) = held.remove(line_of(message, b"Call-ID:")) {
                socket.send_to(&answer(&invite, "487 Request Terminated"), caller).await?;
            }
        }
    }
}

/// The user of the request's URI.
fn user_of(request: &[u8]) -> String {
    let from = memchr::memchr(b':', request).map_or(0, |at| at + 1);
    let to = memchr::memchr(b'@', request).unwrap_or(from);
    String::from_utf8_lossy(request.get(from..to).unwrap_or_default()).into_owned()
}

/// The line that begins so, with its end.
fn line_of<'m>(message: &'m [u8], name: &[u8]) -> &'m [u8] {
    let Some(from) = memmem::find(message, name) else { return &[] };
    let length = memmem::find(&message[from..], b"\r\n").map_or(0, |at| at + 2);
    &message[from..from + length]
}

/// An answer with what every answer repeats (RFC 3261 §8.2.6); its To has a tag.
fn answer(request: &[u8], status: &str) -> Vec<u8> {
    let mut answer = format!("SIP/2.0 {status}\r\n").into_bytes();
    for name in [&b"Via:"[..], b"From:", b"To:", b"Call-ID:", b"CSeq:"] {
        let line = line_of(request, name);
        match name {
            b"To:" => {
                answer.extend_from_slice(line.trim_ascii_end());
                answer.extend_from_slice(b";tag=floor\r\n");
            }
            _ => answer.extend_from_slice(line),
        }
    }
    answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_repeats_what_it_must_and_names_nobody_else() {
        let invite = b"INVITE sip:u7@example.com SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:u7@b>\r\n\
            Call-ID: 3.x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(user_of(invite), "u7");
        assert_eq!(
            String::from_utf8(answer(invite, "180 Ringing")).unwrap(),
            "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP h;branch=z\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:u7@b>;tag=floor\r\n\
             Call-ID: 3.x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
