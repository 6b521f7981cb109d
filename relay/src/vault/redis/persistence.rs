//! Whether the server at the other end of a connection writes to a disk. That is asked before an account is stored there, if the operator wants a store that
//! forgets.
//!
//! Invariant: the answer is for the connection over which the account is written, and no older than [`KNOWN_FOR`]: another server that takes over is examined
//! before it is told anything. What cannot be read counts as a disk, and is examined again each time.

use redis::{Value, cmd};
use tokio::time::{Duration, Instant};

use super::connect::Connection;
use super::failure::Failure;
use super::link::Link;
use crate::vault::store::{AwayReason, StoreError};

/// How long a good answer holds on its connection. The settings of a server may change, and a Cluster replace a server behind it.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// One connection for all questions of a look, and the moment until which they may take.
pub(super) struct ExaminedConnection<'a> {
    link: &'a Link,
    connection: Connection,
    generation: u64,
    until: Instant,
}

/// The findings about a server; `None`: its settings cannot be read.
pub(super) struct Persistence {
    pub append_only: Option<bool>,
    pub snapshots: Option<bool>,
}

impl<'a> ExaminedConnection<'a> {
    /// The present connection.
    pub async fn open(link: &'a Link, until: Instant) -> Result<Self, Failure> {
        let (connection, generation) = link.connected(until).await.map_err(Failure::unasked)?;
        Ok(Self { link, connection, generation, until })
    }

    async fn ask(&self, command: &redis::Cmd) -> Result<Value, Failure> {
        self.link.ask_on(self.connection.clone(), self.generation, command, self.until).await
    }

    /// The answer; `None` when it may not be asked for.
    async fn ask_if_allowed(&self, command: &redis::Cmd) -> Result<Option<Value>, Failure> {
        match self.ask(command).await {
            Err(failure) if matches!(&failure.error, StoreError::Away(AwayReason::Refused(_))) => {
                allowed(Err(failure.error.clone())).map_err(|_| failure)
            }
            answer => answer.map(Some),
        }
    }

    /// The values of a setting, one for each server that answered.
    pub async fn setting(&self, name: &str) -> Result<Option<Vec<String>>, Failure> {
        let answer = self.ask_if_allowed(cmd("CONFIG").arg("GET").arg(name)).await?;
        Ok(answer.map(|answer| settings_of(&answer)))
    }

    /// The values of a field of `INFO`, one for each server that answered.
    pub async fn told(&self, section: &str, field: &str) -> Result<Option<Vec<String>>, Failure> {
        let answer = self.ask_if_allowed(cmd("INFO").arg(section)).await?;
        Ok(answer.map(|answer| fields_of(&answer, field)).filter(|values| !values.is_empty()))
    }

    /// Whether one of the servers that answered has used nine tenths of its memory; not where it has no limit, or may not be asked.
    pub async fn fills(&self) -> Result<bool, Failure> {
        let answer = self.ask_if_allowed(cmd("INFO").arg("memory")).await?;
        Ok(answer.is_some_and(|answer| is_filling(&answer)))
    }
}

impl Persistence {
    pub async fn look(connection: &ExaminedConnection<'_>) -> Result<Self, Failure> {
        let append_only = match connection.told("persistence", "aof_enabled").await? {
            Some(values) => Some(values.iter().any(|value| value == "1")),
            None => connection.setting("appendonly").await?.map(|values| values.iter().any(|value| value == "yes")),
        };
        let snapshots = connection.setting("save").await?.map(|values| values.iter().any(|value| !value.is_empty()));
        Ok(Self { append_only, snapshots })
    }

    fn is_ephemeral(&self) -> bool {
        self.append_only == Some(false) && self.snapshots == Some(false)
    }
}

impl Link {
    /// Notes that the present connection leads to a store that keeps nothing on a disk.
    ///
    /// # Errors
    /// [`AwayReason::MayPersist`] when it does not; otherwise as [`Self::ask`].
    pub async fn needs_ephemeral(&self) -> Result<(), StoreError> {
        let until = Instant::now() + self.limit();
        let look = async || self.look_for_persistence(&ExaminedConnection::open(self, until).await?).await;
        let looked = match look().await {
            Err(Failure { stale: true, .. }) => look().await,
            looked => looked,
        };
        looked.map_err(|failure| failure.error)
    }

    /// Likewise of this connection.
    async fn look_for_persistence(&self, connection: &ExaminedConnection<'_>) -> Result<(), Failure> {
        if self.forgot_at(connection.generation).is_some_and(|at| at.elapsed() < KNOWN_FOR) {
            return Ok(());
        }
        let at = Instant::now();
        if Persistence::look(connection).await?.is_ephemeral() {
            self.note_forgets(connection.generation, at);
            Ok(())
        } else {
            // The settings of the store are examined again.
            self.note_denial();
            Err(Failure::unasked(StoreError::Away(AwayReason::MayPersist)))
        }
    }

    /// Looks over the connection over which something is to be asked until then.
    pub(super) async fn look_before_asking(
        &self,
        connection: Connection,
        generation: u64,
        until: Instant,
    ) -> Result<(), Failure> {
        self.look_for_persistence(&ExaminedConnection { link: self, connection, generation, until }).await
    }
}

/// The answer; `None` when it may not be asked for.
fn allowed(answer: Result<Value, StoreError>) -> Result<Option<Value>, StoreError> {
    match answer {
        Err(StoreError::Away(AwayReason::Refused(code))) if matches!(&*code, "NOPERM" | "ERR") => Ok(None),
        answer => answer.map(Some),
    }
}

/// The values of a `CONFIG GET` of one setting, one for each server that answered.
fn settings_of(answer: &Value) -> Vec<String> {
    match answer {
        Value::Array(items) => match items.as_slice() {
            [name, value] if text(name).is_some() => text(value).into_iter().collect(),
            items => items.iter().flat_map(settings_of).collect(),
        },
        Value::Map(entries) => {
            let of = |(_, value): &(Value, Value)| match text(value) {
                Some(value) => vec![value],
                // Of a Cluster: the server's address, and its answer.
                None => settings_of(value),
            };
            entries.iter().flat_map(of).collect()
        }
        _ => Vec::new(),
    }
}

/// The values of a field of `INFO`, one for each server that answered.
fn fields_of(answer: &Value, field: &str) -> Vec<String> {
    match answer {
        Value::Array(items) => items.iter().flat_map(|item| fields_of(item, field)).collect(),
        Value::Map(entries) => entries.iter().flat_map(|(_, value)| fields_of(value, field)).collect(),
        value => {
            let text = text(value).unwrap_or_default();
            let values = text.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            values.map(|value| value.trim().to_owned()).collect()
        }
    }
}

/// Whether an `INFO` of the memory tells of a server that has used nine tenths of what it may.
fn is_filling(answer: &Value) -> bool {
    let numbers = |field| fields_of(answer, field).into_iter().map(|value| value.parse::<u128>().unwrap_or(0));
    numbers("used_memory").zip(numbers("maxmemory")).any(|(used, most)| most > 0 && used * 10 >= most * 9)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn one_server_and_many_are_read_alike() {
        let one = Value::Array(vec![bulk("save"), bulk("3600 1")]);
        let map = Value::Map(vec![(bulk("save"), bulk(""))]);
        assert_eq!((settings_of(&one), settings_of(&map)), (vec!["3600 1".to_owned()], vec![String::new()]));
        let cluster = Value::Map(vec![(bulk("127.0.0.1:1"), one.clone()), (bulk("127.0.0.1:2"), map)]);
        assert_eq!(settings_of(&cluster), ["3600 1", ""]);
        let info = bulk("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n");
        assert_eq!(fields_of(&info, "maxmemory_policy"), ["noeviction"]);
        assert_eq!(fields_of(&Value::Map(vec![(bulk("127.0.0.1:1"), info)]), "maxmemory_policy"), ["noeviction"]);
    }

    #[test]
    fn a_server_fills_that_has_used_nine_tenths_of_its_limit() {
        let info =
            |used: u64, most: u64| bulk(&format!("used_memory:{used}\r\nmaxmemory:{most}\r\nused_memory_rss:9\r\n"));
        let cases = [(899, 1000, false), (900, 1000, true), (2000, 1000, true), (2000, 0, false)];
        assert!(cases.iter().all(|(used, most, fills)| is_filling(&info(*used, *most)) == *fills));
        let cluster = [("127.0.0.1:1", info(1, 1000)), ("127.0.0.1:2", info(950, 1000))];
        assert!(is_filling(&Value::Map(cluster.map(|(server, info)| (bulk(server), info)).into())));
        assert!(!is_filling(&bulk("# Memory\r\n")));
    }
}
