//! The connection to Redis: opened when it is first needed, shared by everyone, opened anew when it broke.
//!
//! Invariant: an answer, or [`StoreError::Away`], comes within the operation limit, connecting included. One caller
//! connects at a time, the others wait for its connection. A connection on which something went wrong is never used
//! again; a call on one that turns out to be dead is repeated once on a new one, for every question asked here may be.
//! What was asked [in time](Link::ask_in_time) is done within the limit or never, whenever it arrives.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult,
    ScriptInvocation, ServerErrorKind, Value,
};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::client::RedisClient;
use crate::vault::store::{AwayReason, StoreError};

/// How long the store's clock is known after it was told: two clocks part by less than a millisecond in this time.
const CLOCK_KNOWN: Duration = Duration::from_secs(1);
/// How often a script is asked again that came too late by the store's clock: once where that is not known, and once where it was set since.
const CLOCK_TRIES: usize = 3;
/// The code by which a script says that it came too late; the store's time follows, in milliseconds since 1970.
const LATE: &str = "LATE";

pub(super) struct Link {
    /// Held while connecting.
    client: tokio::sync::Mutex<RedisClient>,
    current: Mutex<Current>,
    limit: Duration,
    is_cluster: bool,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// How many connections were opened until now.
    generation: u64,
    /// When this one was.
    opened_at: Option<Instant>,
    /// What the clock at its other end has told; not of a Cluster, which has several.
    clock: Option<StoreClock>,
}

/// What the store's clock has said, in milliseconds since 1970, and when that was heard: it was said a little earlier.
#[derive(Clone, Copy)]
struct StoreClock {
    said_ms: u64,
    heard_at: Instant,
}

impl StoreClock {
    /// What it says at `at`, or a little later.
    fn at(self, at: Instant) -> u64 {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.said_ms.saturating_add(millis(at.saturating_duration_since(self.heard_at)))
    }
}

#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Something to ask, which may be asked twice.
pub(super) trait Question: Sync {
    fn ask<T: FromRedisValue + Send>(&self, on: &mut Connection) -> impl Future<Output = RedisResult<T>> + Send;
}

impl Question for Cmd {
    async fn ask<T: FromRedisValue + Send>(&self, on: &mut Connection) -> RedisResult<T> {
        self.query_async(on).await
    }
}

impl Question for Pipeline {
    async fn ask<T: FromRedisValue + Send>(&self, on: &mut Connection) -> RedisResult<T> {
        self.query_async(on).await
    }
}

impl Question for ScriptInvocation<'_> {
    async fn ask<T: FromRedisValue + Send>(&self, on: &mut Connection) -> RedisResult<T> {
        self.invoke_async(on).await
    }
}

impl Link {
    pub fn new(client: RedisClient, limit: Duration) -> Self {
        let is_cluster = matches!(client, RedisClient::Cluster(_));
        Self { client: tokio::sync::Mutex::new(client), current: Mutex::default(), limit, is_cluster }
    }

    /// Whether this is a Cluster, where no one node knows all keys.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// How many connections were opened until now: what it was between two questions it was for both.
    pub fn generation(&self) -> u64 {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Likewise, with a connection that is open.
    pub async fn open_generation(&self) -> Result<u64, StoreError> {
        self.connected(Instant::now() + self.limit).await.map(|(_, generation)| generation)
    }

    /// How long the present connection has served without anything going wrong on it.
    pub fn steady_for(&self) -> Duration {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let opened_at = current.opened_at.filter(|_| current.connection.is_some());
        opened_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub async fn ask<T: FromRedisValue + Send>(&self, question: &impl Question) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limit;
        self.ask_until(question, deadline).await.map_err(|failure| failure.error)
    }

    /// Asks by a script that does nothing once this has ended: a way to the store that stood still, or the store itself, goes on with what it
    /// was asked, and whoever asked has acted on its silence by then. `make` is given the store's time from which on the script is late, in milliseconds
    /// since 1970, which is its first argument.
    pub async fn ask_in_time<T: FromRedisValue + Send>(
        &self,
        make: impl Fn(u64) -> ScriptInvocation<'static> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.ask_in_time_until(make, Instant::now() + self.limit).await.map_err(|failure| failure.error)
    }

    /// Likewise; one that may have been heard, and was not answered, ends when it can no more be carried out, and not before: whatever is asked
    /// next finds it done, or it is never done.
    pub async fn ask_in_time_or_never<T: FromRedisValue + Send>(
        &self,
        make: impl Fn(u64) -> ScriptInvocation<'static> + Send + Sync,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limit;
        match self.ask_in_time_until(make, deadline).await {
            Err(Failure { error, may_be_done: true, .. }) => {
                sleep_until(deadline).await;
                Err(error)
            }
            answer => answer.map_err(|failure| failure.error),
        }
    }

    async fn ask_in_time_until<T: FromRedisValue + Send>(
        &self,
        make: impl Fn(u64) -> ScriptInvocation<'static> + Send + Sync,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut clock = self.clock();
        for _ in 0..CLOCK_TRIES {
            // An unknown clock is told by the script that it makes late.
            let script = make(clock.map_or(0, |clock| clock.at(deadline)));
            match self.ask_until(&script, deadline).await {
                Err(Failure { late_at: Some(said_ms), .. }) => {
                    clock = Some(StoreClock { said_ms, heard_at: Instant::now() });
                    if !self.is_cluster {
                        self.current.lock().unwrap_or_else(PoisonError::into_inner).clock = clock;
                    }
                }
                answer => return answer,
            }
        }
        Err(Failure::timed_out())
    }

    fn clock(&self) -> Option<StoreClock> {
        let clock = self.current.lock().unwrap_or_else(PoisonError::into_inner).clock;
        clock.filter(|clock| clock.heard_at.elapsed() < CLOCK_KNOWN)
    }

    async fn ask_until<T: FromRedisValue + Send>(
        &self,
        question: &impl Question,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let (connection, generation) = self.connected(deadline).await.map_err(Failure::unasked)?;
        match self.ask_on(connection, generation, question, deadline).await {
            Err(Failure { stale: true, may_be_done, .. }) => {
                let again = async {
                    let (connection, generation) = self.connected(deadline).await.map_err(Failure::unasked)?;
                    self.ask_on(connection, generation, question, deadline).await
                };
                again.await.map_err(|failure| Failure { may_be_done: failure.may_be_done || may_be_done, ..failure })
            }
            answer => answer,
        }
    }

    async fn ask_on<T: FromRedisValue + Send>(
        &self,
        mut connection: Connection,
        generation: u64,
        question: &impl Question,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let failure = match timeout_at(deadline, question.ask(&mut connection)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => Failure::timed_out(),
        };
        if failure.broken {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.generation == generation {
                current.connection = None;
            }
        }
        Err(failure)
    }

    /// The connection, and its generation.
    async fn connected(&self, deadline: Instant) -> Result<(Connection, u64), StoreError> {
        if let Some(open) = self.open_connection() {
            return Ok(open);
        }
        timeout_at(deadline, async {
            let mut client = self.client.lock().await;
            if let Some(open) = self.open_connection() {
                return Ok(open);
            }
            let connection = connect(&mut client, self.limit).await.map_err(|error| Failure::of(&error).error)?;
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.generation += 1;
            current.opened_at = Some(Instant::now());
            current.clock = None;
            current.connection = Some(connection.clone());
            Ok((connection, current.generation))
        })
        .await
        .unwrap_or(Err(StoreError::Away(AwayReason::TimedOut)))
    }

    fn open_connection(&self) -> Option<(Connection, u64)> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Some((current.connection.clone()?, current.generation))
    }
}

async fn connect(client: &mut RedisClient, limit: Duration) -> RedisResult<Connection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit));
    match client {
        RedisClient::One(client) => {
            client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
        }
        RedisClient::Sentinel(client) => client.get_async_connection_with_config(&config).await.map(Connection::One),
        RedisClient::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
    }
}

/// What an error means for the call and for the connection.
struct Failure {
    error: StoreError,
    /// The connection is not to be used again.
    broken: bool,
    /// The connection was dead, or led to a server that is no longer the master: a new one may do.
    stale: bool,
    /// The store may do, or have done, what it was asked.
    may_be_done: bool,
    /// The store's time, in milliseconds since 1970, by which what it was asked came too late.
    late_at: Option<u64>,
}

impl Failure {
    /// It was not asked.
    fn unasked(error: StoreError) -> Self {
        Self { error, broken: false, stale: false, may_be_done: false, late_at: None }
    }

    fn timed_out() -> Self {
        Self { broken: true, may_be_done: true, ..Self::unasked(StoreError::Away(AwayReason::TimedOut)) }
    }

    fn of(error: &RedisError) -> Self {
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
            _ => error.is_connection_dropped(),
        };
        let reason = match error.kind() {
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                return Self { broken: error.kind() == ErrorKind::Parse, ..Self::unasked(StoreError::Malformed) };
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                AwayReason::Refused(error.code().unwrap_or("AUTH").into())
            }
            _ => AwayReason::Unreachable,
        };
        let broken = stale || error.is_io_error() || error.is_unrecoverable_error();
        let may_be_done = reason == AwayReason::Unreachable;
        Self { error: StoreError::Away(reason), broken, stale, may_be_done, late_at: None }
    }
}

/// Whether the store answers, and what lies under a key's name is not what is asked for: of another type, or nothing that a script can work with.
fn is_of_the_value(error: &RedisError) -> bool {
    const WRONG_TYPE: &str = "WRONGTYPE";
    // A script's error has another code before Redis 7, and names what it stumbled over.
    let of_script = |detail: &str| detail.contains(WRONG_TYPE) || detail.contains("attempt to ");
    error.code() == Some(WRONG_TYPE) || error.code() == Some("ERR") && error.detail().is_some_and(of_script)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
