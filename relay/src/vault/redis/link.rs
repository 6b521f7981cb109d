//! The connection to Redis: opened when it is first needed, shared by everyone, opened anew when it broke.
//!
//! Invariant: an answer, or [`StoreError::Away`], comes within the operation limit, connecting included. One caller
//! connects at a time, the others wait for its connection. A connection on which something went wrong is never used
//! again; a call on one that turns out to be dead is repeated once on a new one, for every question asked here may be.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult,
    ScriptInvocation, ServerErrorKind, Value,
};
use tokio::time::{Instant, timeout_at};

use super::client::RedisClient;
use crate::vault::store::{AwayReason, StoreError};

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

    /// How long the present connection has served without anything going wrong on it.
    pub fn steady_for(&self) -> Duration {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let opened_at = current.opened_at.filter(|_| current.connection.is_some());
        opened_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub async fn ask<T: FromRedisValue + Send>(&self, question: &impl Question) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limit;
        let (connection, generation) = self.connected(deadline).await?;
        match self.ask_on(connection, generation, question, deadline).await {
            Err(Failure { stale: true, .. }) => {
                let (connection, generation) = self.connected(deadline).await?;
                self.ask_on(connection, generation, question, deadline).await.map_err(|failure| failure.error)
            }
            answer => answer.map_err(|failure| failure.error),
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
}

impl Failure {
    fn timed_out() -> Self {
        Self { error: StoreError::Away(AwayReason::TimedOut), broken: true, stale: false }
    }

    fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::timed_out();
        }
        let stale = match error.kind() {
            ErrorKind::Server(server) => matches!(server, ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown),
            _ => error.is_connection_dropped(),
        };
        let reason = match error.kind() {
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
                return Self { error: StoreError::Malformed, broken: error.kind() == ErrorKind::Parse, stale: false };
            }
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                AwayReason::Refused(error.code().unwrap_or("AUTH").into())
            }
            _ => AwayReason::Unreachable,
        };
        let broken = stale || error.is_io_error() || error.is_unrecoverable_error();
        Self { error: StoreError::Away(reason), broken, stale }
    }
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
