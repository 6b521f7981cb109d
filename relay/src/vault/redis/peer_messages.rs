//! Letters to one run of a node: a list, which that run alone takes from, over a connection of its own.
//!
//! Invariant: nothing but the wait for the next letter uses that connection, so that the wait delays nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::scripts::SCRIPTS;
use super::{NODES_KEY, RedisStore, millis};
use crate::vault::peer_messages::{LETTER_LIFE, LETTERS_MAX};
use crate::vault::store::{AwayReason, LETTERS_FULL, Owner, StoreError};

/// How long one question for the next letter stays open, in seconds; shorter than the limit of one operation.
const WAIT_S: f64 = 0.4;
/// How long a run that lives may take to read a letter; and how often it is looked whether it has.
const READ_WITHIN: Duration = Duration::from_millis(250);
const READ_AGAIN: Duration = Duration::from_millis(10);
/// The code of an answer to a wait that a server breaks off.
const UNBLOCKED: &str = "UNBLOCKED";

impl RedisStore {
    pub async fn write_letter(&self, to: &Owner, sealed: &[u8]) -> Result<(), StoreError> {
        let mut post = SCRIPTS.post.key(letters_key(to));
        let taken: bool = self.link.ask(post.arg(sealed).arg(LETTERS_MAX).arg(millis(LETTER_LIFE))).await?;
        if taken { Ok(()) } else { Err(StoreError::Away(AwayReason::Refused(LETTERS_FULL.into()))) }
    }

    /// Whether a run takes its letters, of which one was just written: whoever lives waits for them.
    pub(super) async fn reads_letters(&self, run: &Owner) -> Result<bool, StoreError> {
        let until = Instant::now() + READ_WITHIN;
        loop {
            let left: u64 = self.link.ask(::redis::cmd("LLEN").arg(letters_key(run))).await?;
            if left == 0 || Instant::now() >= until {
                return Ok(left == 0);
            }
            sleep(READ_AGAIN).await;
        }
    }

    /// The time by one server's clock, the same for all nodes, in milliseconds since 1970: a Cluster has several clocks.
    pub async fn one_time_ms(&self) -> Result<u64, StoreError> {
        self.link.ask(&SCRIPTS.time.key(NODES_KEY)).await
    }

    /// Waits up to [`WAIT_S`].
    pub async fn next_letter(&self, owner: &Owner) -> Result<Option<Vec<u8>>, StoreError> {
        let mut take = ::redis::cmd("BLPOP");
        take.arg(letters_key(owner)).arg(WAIT_S);
        let taken: Option<(String, Vec<u8>)> = match self.letters.ask(&take).await {
            Err(StoreError::Malformed) => {
                // No list, and no letter will come as long as it lies there.
                self.link.ask::<()>(::redis::cmd("DEL").arg(letters_key(owner))).await?;
                None
            }
            // The server has become a replica in the middle of the wait; the next question is told so by a word that its operator knows.
            Err(StoreError::Away(AwayReason::Refused(code))) if *code == *UNBLOCKED => None,
            taken => taken?,
        };
        Ok(taken.map(|(_, sealed)| sealed))
    }
}

fn letters_key(run: &Owner) -> String {
    format!("sipwake:letters:{run}")
}
