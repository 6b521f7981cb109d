//! Whose keyring the living nodes use: each writes down what tells its own from another, and looks before it takes anything.
//!
//! The one that was there first stands, as long as a node that has it lives: its names end [`RING_TTL`] after the last look of such a
//! node. Of the same keyring's copies the one stands that an operator has mixed something into most often.
//!
//! Invariant: what is written is a keyed hash; nothing of a key follows from it.

use std::time::Duration;

use super::{RedisStore, millis};
use crate::vault::keyring::Fingerprint;
use crate::vault::lookup::hex;
use crate::vault::store::{RingFault, StoreError};

/// How long a keyring stands whose nodes do not look any more.
const RING_TTL: Duration = Duration::from_secs(600);

const RING_KEY: &str = "sipwake:ring";

impl RedisStore {
    /// What is wrong with this keyring beside those of the other nodes; `None`: nothing, and that is written down unless `look_only`.
    pub async fn compare_ring(&self, mine: &Fingerprint, look_only: bool) -> Result<Option<RingFault>, StoreError> {
        let ring = hex(&mine.ring);
        if self.stands(RING_KEY, &ring, look_only).await? != ring {
            return Ok(Some(RingFault::Other));
        }
        let key = format!("{RING_KEY}:{ring}:{}", mine.day);
        let chain = format!("{}:{}", mine.rotation, hex(&mine.chain));
        let theirs = self.stands(&key, &chain, look_only).await?;
        let rotation = theirs.split_once(':').and_then(|(rotation, _)| rotation.parse::<u32>().ok()).unwrap_or(0);
        if theirs == chain {
            return Ok(None);
        }
        if rotation < mine.rotation {
            if !look_only {
                let mut set = ::redis::cmd("SET");
                self.link.ask::<()>(set.arg(&key).arg(&chain).arg("PX").arg(millis(RING_TTL))).await?;
            }
            return Ok(None);
        }
        Ok(Some(if rotation > mine.rotation { RingFault::Behind } else { RingFault::Parted }))
    }

    /// What stands under a name, for longer if it is `mine`; that becomes what stands where nothing does.
    async fn stands(&self, key: &str, mine: &str, look_only: bool) -> Result<String, StoreError> {
        let get = async || self.text_at(key).await;
        let mut stands = get().await?;
        if look_only {
            return Ok(stands.unwrap_or_else(|| mine.to_owned()));
        }
        if stands.is_none() {
            let mut set = ::redis::cmd("SET");
            let _: Option<String> =
                self.link.ask(set.arg(key).arg(mine).arg("PX").arg(millis(RING_TTL)).arg("NX")).await?;
            stands = get().await?;
        }
        if stands.is_none() {
            // Something lies there that tells nothing of a keyring.
            let mut set = ::redis::cmd("SET");
            self.link.ask::<()>(set.arg(key).arg(mine).arg("PX").arg(millis(RING_TTL))).await?;
            stands = get().await?;
        }
        if stands.as_deref() == Some(mine) {
            self.link.ask::<()>(::redis::cmd("PEXPIRE").arg(key).arg(millis(RING_TTL))).await?;
        }
        Ok(stands.unwrap_or_else(|| mine.to_owned()))
    }
}
