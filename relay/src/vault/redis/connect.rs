//! Opening a connection to Redis: to one server, to the master that a sentinel names, or to a Cluster.
//!
//! | store | is asked | a silent one costs |
//! | --- | --- | --- |
//! | one server | that server | all the time there is |
//! | Sentinel | the sentinels in turn, each [a little](SENTINELS_WITHIN) after the one before, or at once after its error; the first master found is used | that little, once: the sentinel that found the master is asked first from then on |
//! | Cluster | all seeds at once | [a part of the time](PATIENCE_TENTHS), and as much again if it has slots |
//!
//! Invariant: a silent server, sentinel or seed keeps nobody from those that answer. Of several errors, the most informative one is reported.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, ProtocolVersion, RedisError, RedisFuture, RedisResult,
    Value,
};
use tokio::time::{Instant, sleep_until};

use super::client::RedisClient;
use super::failure::Failure;
use super::sentinel::Sentinel;
use super::unasked::{is_unasked, or_unasked};

/// The last sentinel is asked within a quarter of the limit, whoever is silent.
const SENTINELS_WITHIN: u32 = 4;
/// How long a node of a Cluster may take to be connected to, in tenths of the limit: 0.3 s of a second. One that takes longer is left out until the next look
/// at the Cluster.
const PATIENCE_TENTHS: u32 = 3;
/// How many limits the library waits for an answer once there is a connection. Whoever asks waits for one; a process that stood still reads an answer that came
/// meanwhile.
const ANSWER_LIMITS: u32 = 10;
/// An error is told in tenths of the limit, before those who wait for the connection give up.
const TOLD_TENTHS: u32 = 9;

#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Connects; of an operation that takes up to `limit` this may be a part, and it may take up to twice that where every node of a Cluster is far.
pub(super) async fn connect(client: &mut RedisClient, limit: Duration) -> RedisResult<Connection> {
    match client {
        RedisClient::One(client) => to_one(client, limit).await.map(Connection::One),
        RedisClient::Sentinel(sentinels) => by_sentinels(sentinels, limit).await.map(Connection::One),
        RedisClient::Cluster { cluster, seeds } => to_cluster(cluster, seeds, limit).await.map(Connection::Cluster),
    }
}

async fn to_one(client: &Client, limit: Duration) -> RedisResult<MultiplexedConnection> {
    match client.get_multiplexed_async_connection_with_config(&within(limit)).await {
        Err(error) => Err(or_unasked(client, error).await),
        Ok(mut connection) => match is_heard(client, &mut connection).await {
            Err(error) => Err(or_unasked(client, error).await),
            Ok(()) => {
                connection.set_response_timeout(limit * ANSWER_LIMITS);
                Ok(connection)
            }
        },
    }
}

/// Whether the server has taken the connection. Where the library had nothing to ask, that is learned by a question, whose refusal is none of the
/// connection: a Redis that cannot save refuses a PING, and is read.
async fn is_heard(client: &Client, connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let settings = client.get_connection_info().redis_settings();
    let has_asked =
        settings.password().is_some() || settings.db() != 0 || settings.protocol() != ProtocolVersion::RESP2;
    if has_asked || !settings.skip_set_lib_name() {
        return Ok(());
    }
    match redis::cmd("PING").query_async(connection).await {
        Err(error) if error.code().is_some() && !is_unasked(&error) => Ok(()),
        answer => answer,
    }
}

/// To the master that a sentinel names.
async fn to_master(sentinel: &mut Sentinel, limit: Duration) -> RedisResult<MultiplexedConnection> {
    to_one(&sentinel.master().await?, limit).await
}

/// As Redis' guide for Sentinel clients has it: one after the other, each with little time, and the first that answers is put first.
async fn by_sentinels(sentinels: &mut Vec<Sentinel>, limit: Duration) -> RedisResult<MultiplexedConnection> {
    let each = limit / SENTINELS_WITHIN / u32::try_from(sentinels.len().max(1)).unwrap_or(u32::MAX);
    let asked = sentinels.iter_mut().map(|sentinel| to_master(sentinel, limit).boxed()).collect();
    let (place, connection) = first_of(asked, each, Instant::now() + limit * TOLD_TENTHS / 10).await?;
    let found_it = sentinels.remove(place);
    sentinels.insert(0, found_it);
    Ok(connection)
}

async fn to_cluster(cluster: &ClusterClient, seeds: &[Client], limit: Duration) -> RedisResult<ClusterConnection> {
    let begun = Instant::now();
    let patience = limit * PATIENCE_TENTHS / 10;
    let config = ClusterConfig::new().set_response_timeout(limit);
    let soon = config.clone().set_connection_timeout(patience);
    let opened = match cluster.get_async_connection_with_config(soon).await {
        // Not one seed has answered so soon: they may be far.
        Err(error) if error.kind() == ErrorKind::Io && begun.elapsed() >= patience => {
            cluster.get_async_connection_with_config(config.set_connection_timeout(limit)).await
        }
        opened => opened,
    };
    match opened {
        // Why, the library says of a single server alone.
        Err(error) if error.kind() == ErrorKind::Io => {
            let asked = seeds.iter().map(|seed| to_one(seed, limit).boxed()).collect();
            let told = first_of(asked, Duration::ZERO, begun + limit * TOLD_TENTHS / 10).await;
            Err(told.err().unwrap_or(error))
        }
        opened => opened,
    }
}

fn within(limit: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(Some(limit))
}

/// The first that succeeds, and its place. Each begins `each` after the one before it, or when none is under way that has not failed. At
/// `deadline`, the error until then that says most.
async fn first_of<T>(
    tries: Vec<BoxFuture<'_, RedisResult<T>>>,
    each: Duration,
    deadline: Instant,
) -> RedisResult<(usize, T)> {
    let mut waiting = tries.into_iter().enumerate().peekable();
    let mut under_way = FuturesUnordered::new();
    let mut told = RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
    loop {
        if let Some((place, one)) = waiting.next() {
            under_way.push(async move { (place, one.await) });
        }
        let next_at = Instant::now() + each;
        tokio::select! {
            ended = under_way.next() => match ended {
                Some((place, Ok(found))) => return Ok((place, found)),
                Some((_, Err(error))) => {
                    if Failure::of(&error).weight() >= Failure::of(&told).weight() {
                        told = error;
                    }
                }
                None => return Err(told),
            },
            () = sleep_until(next_at), if waiting.peek().is_some() => {}
            () = sleep_until(deadline) => return Err(told),
        }
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
