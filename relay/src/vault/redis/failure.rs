//! The meaning of an error of the Redis library, for the caller and for the connection.
//!
//! Invariant: of a server's text only the code is kept, or which of the sentences named here it was. An answer that cannot be parsed says nothing about what is
//! stored: the store counts as away. [`StoreError::Malformed`] is what the server itself has said about a key.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::{sentinel, unasked};
use crate::net::tls_fault::TlsFault;
use crate::vault::store::{AwayReason, StoreError};

/// The code by which a script says that it came too late; the store's time follows, in milliseconds since 1970.
const LATE: &str = "LATE";

/// Refusals of a command that a script may pass on.
const IN_SCRIPTS: [&str; 6] = ["OOM", "READONLY", "MISCONF", "NOREPLICAS", "MASTERDOWN", "NOPERM"];

/// What a server says of a database that cannot be had, and what is told: `ERR` has many meanings, and the
/// command is none that an operator has granted for the relay's own use.
const OF_DATABASES: [(&str, &str); 3] = [
    ("DB index is out of range", "ERR DB index is out of range"),
    ("the 'select' command", "NOPERM for SELECT"),
    ("SELECT is not allowed in cluster mode", "ERR SELECT is not allowed in cluster mode"),
];

/// The words in place of MOVED and ASK of a Cluster.
const MOVED_WITHIN: &str = "MOVED by its Cluster";

/// The consequence of an error for the call and for the connection.
pub(super) struct Failure {
    pub error: StoreError,
    /// The connection is not to be used again.
    pub broken: bool,
    /// The connection was dead, or led to a server that is no longer the master: a new one may do.
    pub stale: bool,
    /// The store may do, or have done, what it was asked.
    pub may_be_done: bool,
    /// The store's time, in milliseconds since 1970, by which what it was asked came too late.
    pub late_at: Option<u64>,
}

impl Failure {
    /// It was not asked.
    pub fn unasked(error: StoreError) -> Self {
        Self { error, broken: false, stale: false, may_be_done: false, late_at: None }
    }

    pub fn timed_out() -> Self {
        Self { broken: true, may_be_done: true, ..Self::unasked(StoreError::Away(AwayReason::TimedOut)) }
    }

    pub fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::timed_out();
        }
        if error.code() == Some(LATE)
            && let Some(late_at) = error.detail().and_then(|detail| detail.trim().parse().ok())
        {
            return Self { late_at: Some(late_at), ..Self::unasked(StoreError::Away(AwayReason::TimedOut)) };
        }
        if is_of_the_value(error) {
            return Self::unasked(StoreError::Malformed);
        }
        let stale = match error.kind() {
            ErrorKind::Server(server) => matches!(server, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
            // The library says the same of an answer that makes no sense and of one that the end of its connection has cut.
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => true,
            _ => error.is_connection_dropped(),
        };
        let reason = match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                AwayReason::Refused(code_of(error).into())
            }
            _ => tls_fault(error).map_or(AwayReason::Unreachable, AwayReason::Tls),
        };
        let broken = stale || error.is_io_error() || error.is_unrecoverable_error();
        // A connection that breaks, by TLS or below it, may do so behind what was asked.
        let may_be_done = matches!(reason, AwayReason::Unreachable | AwayReason::Tls(_));
        Self { error: StoreError::Away(reason), broken, stale, may_be_done, late_at: None }
    }

    /// The same, of what a whole Cluster was asked, or one server: a library that speaks to a Cluster follows it to where it sends, and tells only of one
    /// that it could not follow.
    pub fn within(mut self, is_cluster: bool) -> Self {
        if is_cluster
            && matches!(&self.error, StoreError::Away(AwayReason::Refused(code)) if **code == *"MOVED" || **code == *"ASK")
        {
            self.error = StoreError::Away(AwayReason::Refused(MOVED_WITHIN.into()));
        }
        self
    }

    /// The relay's user may not do it, or the server does not know it.
    pub fn is_denial(&self) -> bool {
        matches!(&self.error, StoreError::Away(AwayReason::Refused(code)) if matches!(&**code, "NOPERM" | "ERR"))
    }

    /// The server was silent for as long as one operation may take.
    pub fn is_silence(&self) -> bool {
        self.broken && self.error == StoreError::Away(AwayReason::TimedOut)
    }

    /// How much it tells an operator, beside another one: what a server has said more than that none was reached, and that more than silence.
    pub fn weight(&self) -> u8 {
        match &self.error {
            StoreError::Away(AwayReason::TimedOut) => 0,
            StoreError::Away(AwayReason::Unreachable) => 1,
            _ => 2,
        }
    }
}

/// The code of a refusal.
fn code_of(error: &RedisError) -> &str {
    let code = error.code().unwrap_or("AUTH");
    let Some(detail) = error.detail() else { return code };
    if let Some(told) = sentinel::code_of(detail) {
        return told;
    }
    if let Some(unasked) = unasked::code_of(detail.as_bytes()) {
        return unasked;
    }
    if let Some((_, told)) = OF_DATABASES.iter().find(|(words, _)| detail.contains(words)) {
        return told;
    }
    match code {
        // Before Redis 7, and of a transaction, the code of what was refused within stands in the words.
        "ERR" | "EXECABORT" => IN_SCRIPTS.iter().find(|code| says(detail, code)).copied().unwrap_or(code),
        code => code,
    }
}

/// Whether the words have this code in them, as a script repeats it: `-OOM command not allowed…`.
fn says(detail: &str, code: &str) -> bool {
    detail.split([' ', ':']).any(|word| word.strip_prefix('-') == Some(code))
}

/// The fault of TLS, if TLS is what has failed.
fn tls_fault(error: &RedisError) -> Option<TlsFault> {
    // The library hands out its own pointer to the cause, not the cause.
    let cause: &(dyn Error + Send + Sync) = &**error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    if let Some(cause) = cause.downcast_ref::<rustls::Error>() {
        return Some(TlsFault::of(cause));
    }
    TlsFault::within(cause.downcast_ref::<io::Error>()?)
}

/// Whether the store answers, and what lies under a key's name is not what is asked for: of another type, or nothing that a script can work with.
fn is_of_the_value(error: &RedisError) -> bool {
    const WRONG_TYPE: &str = "WRONGTYPE";
    // A script's error has another code before Redis 7, and names what it stumbled over.
    let of_script = |detail: &str| detail.contains(WRONG_TYPE) || detail.contains("attempt to ");
    error.code() == Some(WRONG_TYPE) || error.code() == Some("ERR") && error.detail().is_some_and(of_script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: ServerErrorKind, detail: &str) -> Option<Box<str>> {
        let error = RedisError::from((ErrorKind::Server(kind), "an error", detail.to_owned()));
        match Failure::of(&error).error {
            StoreError::Away(AwayReason::Refused(code)) => Some(code),
            _ => None,
        }
    }

    #[test]
    fn a_refusal_within_a_script_has_the_code_that_it_would_have_alone() {
        let of = |detail| refused(ServerErrorKind::ResponseError, detail);
        let script = "Error running script (call to f_0): @user_script:9: @user_script: 9: -OOM command not allowed when used memory > 'maxmemory'.";
        for (detail, code) in [
            (script, "OOM"),
            (
                "Error running script: @user_script: 9: -READONLY You can't write against a read only replica.",
                "READONLY",
            ),
            ("max number of clients reached", "MAXCLIENTS"),
            ("Redis is running in protected mode because", "DENIED"),
            ("unknown command, with args beginning with: OOM", "ERR"),
        ] {
            assert_eq!(of(detail).as_deref(), Some(code), "{detail}");
        }
        assert_eq!(refused(ServerErrorKind::BusyLoading, "Redis is loading").as_deref(), Some("LOADING"));
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_no_damaged_value() {
        let unreadable = [
            redis::parse_redis_value(b"*2\r\n$5\r\nab").expect_err("cut"),
            redis::parse_redis_value(b"HTTP/1.1 400\r\n").expect_err("no answer of Redis"),
            RedisError::from(redis::from_redis_value::<u64>(redis::Value::Nil).expect_err("no number")),
            RedisError::from((ErrorKind::UnexpectedReturnType, "another type")),
        ];
        for error in unreadable {
            let Failure { error: said, broken, stale, may_be_done, .. } = Failure::of(&error);
            assert_eq!(said, StoreError::Away(AwayReason::Unreachable), "{error}");
            assert!(broken && stale && may_be_done, "{error}");
        }
    }

    #[test]
    fn a_cluster_that_sends_elsewhere_is_told_from_one_redis_of_it() {
        for kind in [ServerErrorKind::Moved, ServerErrorKind::Ask] {
            let error = || RedisError::from((ErrorKind::Server(kind), "an error", "3999 127.0.0.1:6381".to_owned()));
            let words = |is_cluster| Failure::of(&error()).within(is_cluster).error.in_words();
            assert!(words(false).ends_with("write redis+cluster://"), "{}", words(false));
            assert!(
                words(true).starts_with("the Cluster sends the relay on to another of its nodes"),
                "{}",
                words(true)
            );
            let remedy = Failure::of(&error()).within(true).error.remedy();
            assert!(remedy.contains("ACL WHOAMI") && remedy.contains("CLUSTER NODES"), "{remedy}");
        }
        let full = RedisError::from((ErrorKind::Server(ServerErrorKind::ResponseError), "an error", "-OOM".to_owned()));
        assert!(Failure::of(&full).within(true).error.in_words().contains("(OOM)"));
    }
}
