//! The examination of a Redis: whether it forgets, whether it keeps what it is given, and whether the relay's user may do all that a relay does.
//!
//! Invariant: each command and each script of the store is run on keys of this examination alone, which expire after [`SCRATCH_TTL`] if they are not removed. A
//! command that makes a key is run by a script that sets its expiry in the same step, so that no key stays for ever when the examination breaks off. An answer
//! that says nothing about a right (the server is loading, or out of memory) counts as a store that is away.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, ScriptInvocation, Value, cmd};
use tokio::time::Instant;

use super::failure::Failure;
use super::persistence::{ExaminedConnection, Persistence};
use super::scripts::{SCRIPTS, ScratchVerdict};
use super::{RedisStore, millis};
use crate::random;
use crate::vault::fault::StoreFault;
use crate::vault::lookup::hex;
use crate::vault::store::{AwayReason, StoreError};

/// How long what an examination wrote lasts at most.
const SCRATCH_TTL: Duration = Duration::from_secs(5);
/// Keys that a Cluster is asked for in one look at its parts: a part with a tenth of the slots is missed by one look of a thousand, and by all or by none.
const PARTS_ASKED: u32 = 64;

impl RedisStore {
    /// Everything that is wrong with it; empty: nothing.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn examine(&self) -> Result<Vec<StoreFault>, StoreError> {
        let scratch = Scratch::new();
        let mut faults = self.try_commands(&scratch).await?;
        if faults.is_empty() {
            faults = self.try_scripts(&scratch).await?;
        }
        self.look_at_settings(&mut faults).await?;
        Ok(faults)
    }

    /// The fault of a part of a Cluster whose other parts answer; `None`: there is none, or it is no Cluster.
    ///
    /// # Errors
    /// It is away as a whole, which says nothing of its parts.
    pub async fn part_away(&self) -> Result<Option<StoreError>, StoreError> {
        if !self.link.is_cluster() {
            return Ok(None);
        }
        let looks = (0..PARTS_ASKED).map(|place| async move {
            self.link.ask::<bool>(::redis::cmd("EXISTS").arg(format!("sipwake:check:{{{place}}}"))).await
        });
        let (answered, failed): (Vec<_>, Vec<_>) = join_all(looks).await.into_iter().partition(Result::is_ok);
        match failed.into_iter().find_map(Result::err) {
            Some(error) if answered.is_empty() => Err(error),
            found => Ok(found),
        }
    }

    async fn try_commands(&self, scratch: &Scratch) -> Result<Vec<StoreFault>, StoreError> {
        let mut faults = Vec::new();
        for (name, trial) in scratch.trials() {
            faults.extend(match trial {
                Trial::Asks(command) => verdict(name, self.link.ask::<Value>(&command).await.map(drop))?,
                Trial::Makes(script) => match self.link.ask(&script).await {
                    Ok(ScratchVerdict::Granted) => None,
                    Ok(ScratchVerdict::Forbidden) => Some(StoreFault::Forbidden(name)),
                    Ok(ScratchVerdict::Unknown) => Some(StoreFault::Unknown(name)),
                    Err(error) => verdict("EVALSHA", Err(error))?,
                },
            });
        }
        faults.dedup();
        Ok(faults)
    }

    /// Each script as a whole: that its commands are granted one by one does not say that it may be run.
    async fn try_scripts(&self, scratch: &Scratch) -> Result<Vec<StoreFault>, StoreError> {
        const NAME: &str = "EVALSHA";
        let (ttl, key) = (millis(SCRATCH_TTL), |of: &str| scratch.key(of));
        let (record, messages, calls) = (key("script-i"), key("script-m"), key("script-c"));
        let (lookup, lease, set, mark, list) =
            (key("script-l"), key("script-lease"), key("script-set"), key("script-mark"), key("script-list"));
        let (one, other) = ("check-one#1", "check-other#1");
        // No answer is late.
        let never = i64::MAX;
        let mut put = SCRIPTS.put.key(&record);
        put.key(&messages)
            .key(&calls)
            .arg(never)
            .arg("-")
            .arg(one)
            .arg(0)
            .arg(0)
            .arg("-")
            .arg(ttl)
            .arg(0)
            .arg(0)
            .arg(0);
        let mut keep = SCRIPTS.keep.key(&record);
        keep.key(&messages).arg("-").arg("00000000-").arg(1).arg(1).arg(0).arg(0).arg(0);
        let mut keep_again = SCRIPTS.keep.key(&record);
        keep_again.key(&messages).arg("+").arg("00000001-").arg(1).arg(1).arg(0).arg(0).arg(0);
        let mut claim = SCRIPTS.claim.key(&record);
        claim.arg(never).arg(other).arg(1).arg("check-one");
        let mut erase = SCRIPTS.erase.key(&record);
        erase.key(&messages).key(&calls).arg("check-other").arg("");
        let mut point = SCRIPTS.point.key(&lookup);
        point.arg(never).arg("-").arg(ttl).arg(1);
        let mut unpoint = SCRIPTS.unpoint.key(&lookup);
        unpoint.arg("-");
        let mut release = SCRIPTS.release.key(&lease);
        release.arg("-").arg("-").arg(ttl);
        let mut add = SCRIPTS.add.key(&set);
        add.arg(ttl).arg("-");
        let mut count = SCRIPTS.mark.key(&mark);
        count.arg(ttl);
        let mut post = SCRIPTS.post.key(&list);
        post.arg("-").arg(1).arg(ttl);
        let scripts = [put, keep, keep_again, claim, erase, point, unpoint, release, add, count, post];
        let mut faults = Vec::new();
        for script in &scripts {
            let answer = self.link.ask::<Value>(script).await.map(drop);
            faults.extend(verdict(NAME, answer)?);
        }
        faults.dedup();
        Ok(faults)
    }

    async fn look_at_settings(&self, faults: &mut Vec<StoreFault>) -> Result<(), StoreError> {
        let look = async {
            let connection = ExaminedConnection::open(&self.link, Instant::now() + self.link.limit()).await?;
            let Persistence { append_only, snapshots } = Persistence::look(&connection).await?;
            let policy = match connection.told("memory", "maxmemory_policy").await? {
                Some(values) => Some(values),
                None => connection.setting("maxmemory-policy").await?,
            };
            Ok((append_only, snapshots, policy, connection.fills().await?))
        };
        let (append_only, snapshots, policy, fills) = look.await.map_err(|failure: Failure| failure.error)?;
        if append_only == Some(true) {
            faults.push(StoreFault::AppendOnlyFile);
        }
        if snapshots == Some(true) {
            faults.push(StoreFault::Snapshots);
        }
        if append_only.is_none() || snapshots.is_none() || policy.is_none() {
            faults.push(StoreFault::Unreadable);
        }
        // All keys have a TTL: each policy but this one evicts them.
        if let Some(evicts) = policy.iter().flatten().find(|policy| *policy != "noeviction") {
            faults.push(StoreFault::Evicts(evicts.as_str().into()));
        } else if fills {
            // One that evicts makes room by itself.
            faults.push(StoreFault::Fills);
        }
        Ok(())
    }
}

/// A try of one command.
enum Trial {
    /// By itself: it makes no key, or one that ends.
    Asks(Cmd),
    /// By a script that has the key end in the same step.
    Makes(ScriptInvocation<'static>),
}

/// The keys of one examination, in one slot of a Cluster.
struct Scratch(String);

impl Scratch {
    fn new() -> Self {
        Self(hex(&random::bytes::<8>()))
    }

    fn key(&self, of: &str) -> String {
        format!("sipwake:check:{{{}}}:{of}", self.0)
    }

    /// Each command that the store uses by itself or in a script, in an order in which what is made is removed.
    fn trials(&self) -> Vec<(&'static str, Trial)> {
        let (ttl, key) = (millis(SCRATCH_TTL).to_string(), |of: &str| self.key(of));
        let asks = |name: &'static str, of: &str, args: &[&str]| {
            let mut command = cmd(name);
            command.arg(key(of)).arg(args);
            (name, Trial::Asks(command))
        };
        let makes = |name: &'static str, of: &str, args: &[&str]| {
            let mut script = SCRIPTS.scratch.key(key(of));
            script.arg(&ttl).arg(name).arg(args);
            (name, Trial::Makes(script))
        };
        let of_none = |name: &'static str, words: &[&str]| {
            let mut command = cmd(words[0]);
            command.arg(&words[1..]);
            (name, Trial::Asks(command))
        };
        vec![
            of_none("PING", &["PING"]),
            of_none("TIME", &["TIME"]),
            asks("SET", "s", &["1", "PX", &ttl, "GET"]),
            asks("GET", "s", &[]),
            asks("EXISTS", "s", &[]),
            asks("PTTL", "s", &[]),
            asks("PEXPIRE", "s", &[&ttl]),
            of_none("SCRIPT LOAD", &["SCRIPT", "LOAD", "return 1"]),
            makes("HSET", "h", &["a", "1", "b", "2"]),
            asks("HGET", "h", &["a"]),
            asks("HMGET", "h", &["a", "b"]),
            asks("HGETALL", "h", &[]),
            asks("HLEN", "h", &[]),
            makes("HINCRBY", "h", &["a", "1"]),
            asks("HDEL", "h", &["b"]),
            makes("SADD", "set", &["a"]),
            asks("SSCAN", "set", &["0", "COUNT", "1"]),
            asks("SREM", "set", &["a"]),
            makes("RPUSH", "list", &["a"]),
            asks("LLEN", "list", &[]),
            asks("BLPOP", "list", &["0.1"]),
            of_none("SCAN", &["SCAN", "0", "MATCH", &key("*"), "COUNT", "1"]),
            asks("DEL", "s", &[]),
            asks("DEL", "h", &[]),
        ]
    }
}

/// The verdict of an answer on the right to ask; an error when it holds none.
fn verdict(name: &'static str, answer: Result<(), StoreError>) -> Result<Option<StoreFault>, StoreError> {
    match answer {
        Err(StoreError::Away(AwayReason::Refused(code))) if &*code == "NOPERM" => Ok(Some(StoreFault::Forbidden(name))),
        // An older Redis says so of what is missing in a script.
        Err(StoreError::Away(AwayReason::Refused(code))) if &*code == "ERR" => match name {
            "EVALSHA" => Ok(Some(StoreFault::Forbidden(name))),
            _ => Ok(Some(StoreFault::Unknown(name))),
        },
        answer => answer.map(|()| None),
    }
}
