//! A registrar over UDP that accepts whoever has answered its challenge, and keeps nothing of anybody.

use std::net::SocketAddr;

use sip::message::{Composer, Limits, Message, Name};
use tests::ports;
use tokio::net::UdpSocket;

/// Answers until the runtime ends; gives its address.
pub async fn start() -> SocketAddr {
    let address = ports::free_address();
    let socket = UdpSocket::bind(address).await.expect("a free port");
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let bytes = bytes::Bytes::copy_from_slice(&buffer[..len]);
            let Ok(register) = Message::parse(&bytes, &Limits::default()) else { continue };
            // A ping is answered by nobody: it has no binding to lose.
            if register.method_text() == Some("REGISTER") {
                let _ = socket.send_to(&answer(&register), from).await;
            }
        }
    });
    address
}

fn answer(register: &Message) -> bytes::Bytes {
    let respond = |status, reason| Composer::response(register, status, reason, Some("registrar"));
    match (register.has(Name::Authorization), register.text(Name::Contact)) {
        (true, Some(contact)) => {
            let contact = contact.split_once('>').map_or(contact, |(uri, _)| uri);
            respond(200, "OK").header(Name::Contact, format!("{contact}>;expires=3600")).finish()
        }
        _ => {
            let nonce = "6a1f0c9be2d84c7f93b5a0de";
            let challenge =
                format!("Digest realm=\"example.test\", nonce=\"{nonce}\", algorithm=SHA-256, qop=\"auth\"");
            respond(401, "Unauthorized").header(Name::WwwAuthenticate, challenge).finish()
        }
    }
}
