//! What a server says unasked before it closes a new connection: that it has its maximum of clients, or that it is in protected mode. The library has asked
//! something by then, and sees only the closed connection, or takes the message for another answer.
//!
//! Invariant: this is read only after a connection has failed, for at most [`LISTEN`], in plain TCP: over TLS a server says nothing at that point. At most
//! [`HEARD_MAX`] bytes are read, and only which of the two it is is kept.

use redis::{Client, ConnectionAddr, ErrorKind, RedisError, ServerErrorKind};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

/// How long a server may take to say so, connecting included.
const LISTEN: Duration = Duration::from_millis(200);
/// More than either of the two takes to its first full stop.
const HEARD_MAX: usize = 256;

/// The code, for a log; the words are not Redis' own where that has none for it.
const FULL: &str = "MAXCLIENTS";
const PROTECTED: &str = "DENIED";

/// The unasked words of the server of `client`, whose connection has failed with `error`; or that error.
pub(super) async fn or_unasked(client: &Client, error: RedisError) -> RedisError {
    let may_be = error.is_connection_dropped() || error.kind() == ErrorKind::AuthenticationFailed;
    let ConnectionAddr::Tcp(host, port) = client.get_connection_info().addr() else { return error };
    if !may_be {
        return error;
    }
    let heard = async {
        let mut stream = TcpStream::connect((host.as_str(), *port)).await.ok()?;
        let mut heard = Vec::with_capacity(HEARD_MAX);
        while heard.len() < HEARD_MAX && stream.read_buf(&mut heard).await.ok()? > 0 {
            if code_of(&heard).is_some() {
                return Some(String::from_utf8_lossy(&heard).into_owned());
            }
        }
        None
    };
    let heard = timeout(LISTEN, heard).await.ok().flatten();
    heard.map_or(error, |heard| (ErrorKind::Server(ServerErrorKind::ResponseError), "said unasked", heard).into())
}

/// Whether the server has said it in place of an answer.
pub(super) fn is_unasked(error: &RedisError) -> bool {
    error.code() == Some(PROTECTED) || error.detail().is_some_and(|detail| code_of(detail.as_bytes()).is_some())
}

/// Which of the two it is.
pub(super) fn code_of(heard: &[u8]) -> Option<&'static str> {
    let heard = String::from_utf8_lossy(heard);
    let known = [("max number of clients", FULL), ("protected mode", PROTECTED)];
    known.into_iter().find(|(words, _)| heard.contains(words)).map(|(_, code)| code)
}
