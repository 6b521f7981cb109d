//! One sentinel, and the question for the master: without credentials or, if the sentinel wants some, with the user and the password of the URL.
//!
//! | asked | when |
//! | --- | --- |
//! | without credentials | first: a sentinel without a password refuses every password |
//! | with user and password | it wants credentials |
//! | with the password alone | it does not know the user (`requirepass` has none) |
//!
//! Invariant: the refusal of a sentinel is reported as the sentinel's, and never as that of the Redis which it names. The way that found the master is tried
//! first from then on.

use std::collections::HashMap;

use redis::sentinel::SentinelClient;
use redis::{Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};

/// The codes by which it is told what a sentinel says; Redis has none for it.
const REFUSES: &str = "NOAUTH of a sentinel";
const FORBIDS: &str = "NOPERM of a sentinel";
const NO_SERVICE: &str = "no such service at the sentinels";
const NO_MASTER: &str = "no master at the sentinels";

pub(super) struct Sentinel {
    service: Box<str>,
    logins: Vec<Login>,
}

/// Connections to the sentinel with one set of credentials, or without any.
pub(super) struct Login {
    pub masters: SentinelClient,
    /// For the sentinel's own answers.
    pub itself: Client,
}

/// How a sentinel stands that has named no master which serves.
enum Standing {
    /// It does not talk to whoever asks so.
    Refuses(&'static str),
    /// It watches no service of this name.
    NoService,
    /// It names one.
    Names,
    /// It says nothing.
    Silent,
}

impl Sentinel {
    pub fn new(service: &str, logins: Vec<Login>) -> Self {
        Self { service: service.into(), logins }
    }

    /// The master that it names, which was asked whether it is one.
    pub async fn master(&mut self) -> RedisResult<Client> {
        let mut refused = REFUSES;
        for place in 0..self.logins.len() {
            let login = &mut self.logins[place];
            let error = match login.masters.async_get_client().await {
                Ok(master) => {
                    self.logins.swap(0, place);
                    return Ok(master);
                }
                Err(error) => error,
            };
            match standing(&login.itself, &self.service).await {
                Standing::Refuses(code) => refused = code,
                Standing::NoService => return Err(told(NO_SERVICE)),
                Standing::Names if error.kind() == ErrorKind::MasterNameNotFoundBySentinel => {
                    return Err(told(NO_MASTER));
                }
                Standing::Names | Standing::Silent => return Err(error),
            }
        }
        Err(told(refused))
    }
}

async fn standing(sentinel: &Client, service: &str) -> Standing {
    let asked = async {
        let mut connection = sentinel.get_multiplexed_async_connection().await?;
        redis::cmd("SENTINEL").arg("MASTERS").query_async::<Vec<HashMap<String, String>>>(&mut connection).await
    };
    match asked.await {
        Ok(masters) if masters.iter().any(|master| master.get("name").is_some_and(|name| name == service)) => {
            Standing::Names
        }
        Ok(_) => Standing::NoService,
        Err(error) if error.kind() == ErrorKind::AuthenticationFailed => Standing::Refuses(REFUSES),
        Err(error) => match error.code() {
            Some("NOPERM") => Standing::Refuses(FORBIDS),
            Some("NOAUTH" | "WRONGPASS" | "ERR") => Standing::Refuses(REFUSES),
            _ => Standing::Silent,
        },
    }
}

/// An error of a sentinel, as this relay names it.
fn told(code: &'static str) -> RedisError {
    (ErrorKind::Server(ServerErrorKind::ResponseError), "of a sentinel", code.to_owned()).into()
}

/// Which of these it is.
pub(super) fn code_of(detail: &str) -> Option<&'static str> {
    [REFUSES, FORBIDS, NO_SERVICE, NO_MASTER].into_iter().find(|code| *code == detail)
}
