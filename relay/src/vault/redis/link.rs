//! The connection to Redis: opened when it is first needed, shared by all callers, and opened anew when it broke.
//!
//! | rule | reason |
//! | --- | --- |
//! | an answer, or [`StoreError::Away`], comes within the operation limit, connecting included | |
//! | one connection is opened at a time, for all who wait, and its opening goes on when they have given up | a new attempt for each caller would have less time than an opening takes |
//! | a connection on which something went wrong is never used again; a call on a dead one is repeated once on a new one | every question asked here may be repeated |
//! | in a Cluster, a connection with an unanswered question still serves others until a new one is open | one server may be silent alone |
//! | a new connection to a whole Cluster is opened at most once in [a while](RENEWED_EVERY) | it opens one to each server, and with a server that is gone every question goes wrong |
//!
//! Invariant: what was asked [in time](Link::ask_in_time) is done within the limit or never, whenever it arrives. A write that needs a store that forgets goes
//! only over a connection whose other end was [examined](super::persistence).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ScriptInvocation};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::RedisClient;
use super::connect::{Connection, connect};
use super::failure::Failure;
use crate::lock::Mutex;
use crate::vault::store::{AwayReason, StoreError};

/// An answer that is so late was not waited for: the process stood still.
const STOOD_STILL: Duration = Duration::from_millis(20);
/// How long it then takes at most to read what has come meanwhile.
const READ_LATE: Duration = Duration::from_millis(100);
/// How long the store's clock is known after it was told: two clocks part by less than a millisecond in this time.
const CLOCK_KNOWN: Duration = Duration::from_secs(1);
/// How often a script is asked again that came too late by the store's clock: once where that is not known, and once where it was set since.
const CLOCK_TRIES: usize = 3;
/// How many limits of an operation connecting may take; whoever asks waits for one.
const CONNECT_LIMITS: u32 = 2;

/// In how many limits of an operation the connection to a Cluster is renewed once, at the most: 4 s. A library that is told of no new master finds it by that
/// alone.
const RENEWED_EVERY: u32 = 4;

pub(super) struct Link {
    /// Held while connecting.
    client: Arc<tokio::sync::Mutex<RedisClient>>,
    current: Arc<Mutex<Current>>,
    limit: Duration,
    is_cluster: bool,
    /// How often the relay's user was denied something, or the server did not know it.
    denials: AtomicU64,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// How many connections were opened until now.
    generation: u64,
    /// Since when nothing has gone wrong on this one.
    steady_since: Option<Instant>,
    /// When it was made.
    made_at: Option<Instant>,
    /// The reading of the store's clock; not of a Cluster, which has several.
    clock: Option<StoreClock>,
    /// When it was found last that the other end keeps nothing of what it is told.
    forgot_at: Option<Instant>,
}

/// The store to which a command may be sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteTarget {
    /// Any.
    Anywhere,
    /// A store that keeps nothing on a disk.
    Ephemeral,
}

/// What the store's clock has said, in milliseconds since 1970, and when that was heard: it was said a little earlier.
#[derive(Clone, Copy)]
struct StoreClock {
    said_ms: u64,
    heard_at: Instant,
}

impl StoreClock {
    /// The time by it at `at`, or a little later.
    fn at(self, at: Instant) -> u64 {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.said_ms.saturating_add(millis(at.saturating_duration_since(self.heard_at)))
    }
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
        let is_cluster = matches!(client, RedisClient::Cluster { .. });
        let client = Arc::new(tokio::sync::Mutex::new(client));
        Self { client, current: Arc::default(), limit, is_cluster, denials: AtomicU64::new(0) }
    }

    /// Whether this is a Cluster, where no one node knows all keys.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// The answer; `None`: one server of a Cluster is silent, and the others may answer.
    ///
    /// # Errors
    /// Any other error of the answer.
    pub fn skip_silent_server<T>(&self, answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match answer {
            Err(StoreError::Away(_)) if self.is_cluster => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// How many connections were opened until now: what it was between two questions it was for both.
    pub fn generation(&self) -> u64 {
        self.current.lock().generation
    }

    /// Likewise, with a connection that is open.
    pub async fn open_generation(&self) -> Result<u64, StoreError> {
        self.connected(Instant::now() + self.limit).await.map(|(_, generation)| generation)
    }

    /// How often something was denied that a store which is set up as it should be grants.
    pub fn denials(&self) -> u64 {
        self.denials.load(Ordering::Relaxed)
    }

    /// How long one operation may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// When it was found last that the other end of the connection of this generation forgets.
    pub(super) fn forgot_at(&self, generation: u64) -> Option<Instant> {
        let current = self.current.lock();
        current.forgot_at.filter(|_| current.generation == generation)
    }

    pub(super) fn note_forgets(&self, generation: u64, at: Instant) {
        let mut current = self.current.lock();
        if current.generation == generation {
            current.forgot_at = Some(at);
        }
    }

    /// How long the present connection has served without anything going wrong on it.
    pub fn steady_for(&self) -> Duration {
        let current = self.current.lock();
        let steady_since = current.steady_since.filter(|_| current.connection.is_some());
        steady_since.map_or(Duration::ZERO, |at| at.elapsed())
    }

    pub async fn ask<T: FromRedisValue + Send>(&self, question: &impl Question) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limit;
        self.ask_until(question, WriteTarget::Anywhere, deadline).await.map_err(|failure| failure.error)
    }

    /// Asks by a script that does nothing once this has ended: a way to the store that stood still, or the store itself, goes on with what it
    /// was asked, and whoever asked has acted on its silence by then. `make` is given the store's time from which on the script is late, in milliseconds
    /// since 1970, which is its first argument.
    pub async fn ask_in_time<T: FromRedisValue + Send>(
        &self,
        make: impl Fn(u64) -> ScriptInvocation<'static> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.ask_in_time_until(make, WriteTarget::Anywhere, Instant::now() + self.limit)
            .await
            .map_err(|failure| failure.error)
    }

    /// Likewise; one that may have been heard, and was not answered, ends when it can no more be carried out, and not before: whatever is asked
    /// next finds it done, or it is never done.
    pub async fn ask_in_time_or_never<T: FromRedisValue + Send>(
        &self,
        make: impl Fn(u64) -> ScriptInvocation<'static> + Send + Sync,
        target: WriteTarget,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limit;
        match self.ask_in_time_until(make, target, deadline).await {
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
        target: WriteTarget,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut clock = self.clock();
        for _ in 0..CLOCK_TRIES {
            // An unknown clock is told by the script that it makes late.
            let script = make(clock.map_or(0, |clock| clock.at(deadline)));
            match self.ask_until(&script, target, deadline).await {
                Err(Failure { late_at: Some(said_ms), .. }) => {
                    clock = Some(StoreClock { said_ms, heard_at: Instant::now() });
                    if !self.is_cluster {
                        self.current.lock().clock = clock;
                    }
                }
                answer => return answer,
            }
        }
        Err(Failure::timed_out())
    }

    fn clock(&self) -> Option<StoreClock> {
        let clock = self.current.lock().clock;
        clock.filter(|clock| clock.heard_at.elapsed() < CLOCK_KNOWN)
    }

    async fn ask_until<T: FromRedisValue + Send>(
        &self,
        question: &impl Question,
        target: WriteTarget,
        deadline: Instant,
    ) -> Result<T, Failure> {
        match self.ask_once_until(question, target, deadline).await {
            Err(Failure { stale: true, may_be_done, .. }) => {
                let again = self.ask_once_until(question, target, deadline);
                again.await.map_err(|failure| Failure { may_be_done: failure.may_be_done || may_be_done, ..failure })
            }
            answer => answer,
        }
    }

    async fn ask_once_until<T: FromRedisValue + Send>(
        &self,
        question: &impl Question,
        target: WriteTarget,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let (connection, generation) = self.connected(deadline).await.map_err(Failure::unasked)?;
        if target == WriteTarget::Ephemeral {
            self.look_before_asking(connection.clone(), generation, deadline).await?;
        }
        self.ask_on(connection, generation, question, deadline).await
    }

    pub(super) async fn ask_on<T: FromRedisValue + Send>(
        &self,
        mut connection: Connection,
        generation: u64,
        question: &impl Question,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let asked = question.ask(&mut connection);
        tokio::pin!(asked);
        let mut answered = timeout_at(deadline, asked.as_mut()).await;
        if answered.is_err() && deadline.elapsed() >= STOOD_STILL {
            // This process stood still, and the answer may have come meanwhile: it is read before it is said to be late.
            answered = timeout(READ_LATE, asked).await;
        }
        let failure = match answered {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::of(&error).within(self.is_cluster),
            Err(_) => Failure::timed_out(),
        };
        if failure.is_denial() {
            self.note_denial();
        }
        if failure.broken {
            self.give_up(generation, failure.is_silence());
        }
        Err(failure)
    }

    pub(super) fn note_denial(&self) {
        self.denials.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection of this generation has failed.
    fn give_up(&self, generation: u64, is_silence: bool) {
        let mut current = self.current.lock();
        if current.generation != generation {
            return;
        }
        let is_new = current.made_at.is_some_and(|at| at.elapsed() < self.limit * RENEWED_EVERY);
        if !(self.is_cluster && (is_silence || is_new)) {
            current.connection = None;
            return;
        }
        current.steady_since = Some(Instant::now());
        drop(current);
        if is_new {
            // To the other servers it is as good, and the library goes on trying to reach the one.
            return;
        }
        if let Ok(client) = self.client.clone().try_lock_owned() {
            // The caller does not wait any more.
            drop(self.begin_to_connect(client));
        }
    }

    /// The connection, and its generation.
    pub(super) async fn connected(&self, deadline: Instant) -> Result<(Connection, u64), StoreError> {
        if let Some(open) = self.open_connection() {
            return Ok(open);
        }
        timeout_at(deadline, async {
            let client = self.client.clone().lock_owned().await;
            if let Some(open) = self.open_connection() {
                return Ok(open);
            }
            // A task ends otherwise only with the runtime.
            self.begin_to_connect(client).await.unwrap_or(Err(StoreError::Away(AwayReason::Unreachable)))
        })
        .await
        .unwrap_or(Err(StoreError::Away(AwayReason::TimedOut)))
    }

    /// Makes a connection in a task of its own.
    fn begin_to_connect(
        &self,
        mut client: OwnedMutexGuard<RedisClient>,
    ) -> JoinHandle<Result<(Connection, u64), StoreError>> {
        let (current, limit, is_cluster) = (self.current.clone(), self.limit, self.is_cluster);
        tokio::spawn(async move {
            let made = timeout(limit * CONNECT_LIMITS, connect(&mut client, limit)).await;
            let failure = |error| Failure::of(&error).within(is_cluster);
            let made = made.map_err(|_| Failure::timed_out()).and_then(|made| made.map_err(failure));
            let connection = made.map_err(|failure| failure.error)?;
            let mut current = current.lock();
            current.generation += 1;
            current.steady_since = Some(Instant::now());
            current.made_at = current.steady_since;
            current.clock = None;
            current.forgot_at = None;
            current.connection = Some(connection.clone());
            Ok((connection, current.generation))
        })
    }

    fn open_connection(&self) -> Option<(Connection, u64)> {
        let current = self.current.lock();
        Some((current.connection.clone()?, current.generation))
    }
}
