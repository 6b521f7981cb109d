//! The keyring of the living nodes: each writes down what tells its own from another, and looks before it takes anything.
//!
//! The one that was there first stands, as long as a node that has it lives: its names end [`AGREEMENT_TTL`] after the last look of such a
//! node. Of the same keyring's copies the one stands that an operator has mixed something into most often. A name that is missing is written by whom the
//! [caller](crate::vault::keyring_agreement) has it written by.
//!
//! Invariant: what is written is a keyed hash; nothing of a key follows from it.

use std::time::Duration;

use super::{RedisStore, millis};
use crate::vault::keyring::Fingerprint;
use crate::vault::lookup::hex;
use crate::vault::store::{KeyringMismatch, StoreError};

/// How long a keyring stands whose nodes do not look any more.
pub(in crate::vault) const AGREEMENT_TTL: Duration = Duration::from_secs(600);

const AGREEMENT_KEY: &str = "sipwake:ring";

/// The name of a memo in the slot of [`AGREEMENT_KEY`]: its hash tag is that key.
pub(in crate::vault) fn beside_agreement(memo: &str) -> String {
    format!("{{{AGREEMENT_KEY}}}:{memo}")
}

/// What a look at the names in the store does to them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) enum Look {
    /// Nothing.
    Only,
    /// What stands and is this keyring's stands for longer; a copy that was rotated further stands from now on.
    Refresh,
    /// Likewise, and this keyring stands where none does.
    Found,
    /// Likewise, and where another keyring does. Of its copies the one stands that was rotated further.
    Take,
}

/// What a look has found.
pub(in crate::vault) enum Compared {
    /// This keyring stands.
    Stands,
    /// None stands, or none of today: the store has lost that, or nobody lives who has looked.
    Absent,
    /// Another one does.
    Fault(KeyringMismatch),
}

impl RedisStore {
    /// Looks at what stands beside this keyring.
    pub async fn check_keyring(&self, mine: &Fingerprint, look: Look) -> Result<Compared, StoreError> {
        let identity = hex(&mine.identity);
        if look == Look::Take {
            let mut set = ::redis::cmd("SET");
            self.link.ask::<()>(set.arg(AGREEMENT_KEY).arg(&identity).arg("PX").arg(millis(AGREEMENT_TTL))).await?;
        }
        match self.stands(AGREEMENT_KEY, &identity, look).await? {
            None => return Ok(Compared::Absent),
            Some(theirs) if theirs != identity => return Ok(Compared::Fault(KeyringMismatch::Other)),
            Some(_) => {}
        }
        let key = format!("{AGREEMENT_KEY}:{identity}:{}", mine.day);
        let chain = format!("{}:{}", mine.rotation, hex(&mine.chain));
        let Some(theirs) = self.stands(&key, &chain, look).await? else { return Ok(Compared::Absent) };
        let rotation = theirs.split_once(':').and_then(|(rotation, _)| rotation.parse::<u32>().ok()).unwrap_or(0);
        if theirs == chain {
            return Ok(Compared::Stands);
        }
        if rotation < mine.rotation {
            if look != Look::Only {
                let mut set = ::redis::cmd("SET");
                self.link.ask::<()>(set.arg(&key).arg(&chain).arg("PX").arg(millis(AGREEMENT_TTL))).await?;
            }
            return Ok(Compared::Stands);
        }
        Ok(Compared::Fault(if rotation > mine.rotation { KeyringMismatch::Behind } else { KeyringMismatch::Parted }))
    }

    /// What stands under a name.
    async fn stands(&self, key: &str, mine: &str, look: Look) -> Result<Option<String>, StoreError> {
        let get = async || self.text_at(key).await;
        let mut stands = get().await?;
        if look == Look::Only {
            return Ok(stands);
        }
        if stands.is_none() && matches!(look, Look::Found | Look::Take) {
            let mut set = ::redis::cmd("SET");
            let _: Option<String> =
                self.link.ask(set.arg(key).arg(mine).arg("PX").arg(millis(AGREEMENT_TTL)).arg("NX")).await?;
            stands = get().await?;
            if stands.is_none() {
                // Something lies there that tells nothing of a keyring.
                let mut set = ::redis::cmd("SET");
                self.link.ask::<()>(set.arg(key).arg(mine).arg("PX").arg(millis(AGREEMENT_TTL))).await?;
                stands = get().await?;
            }
        }
        if stands.as_deref() == Some(mine) {
            self.link.ask::<()>(::redis::cmd("PEXPIRE").arg(key).arg(millis(AGREEMENT_TTL))).await?;
        }
        Ok(stands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_beside_what_stands_has_its_key_as_hash_tag() {
        let name = beside_agreement("0123");
        let tag = name.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        assert_eq!(tag, Some(AGREEMENT_KEY));
    }
}
