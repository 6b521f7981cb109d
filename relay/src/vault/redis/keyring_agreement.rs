//! The keyring that the living nodes agree on. Each node compares the fingerprint of its keyring with the one in the store before it claims anything.
//!
//! The first fingerprint written is the agreed one while a node with that keyring lives: the key expires [`AGREEMENT_TTL`] after the last comparison by
//! such a node. Among copies of one keyring, the copy that was rotated most often is the agreed one. The
//! [caller](crate::vault::keyring_agreement) decides who writes a fingerprint that is missing.
//!
//! Invariant: a fingerprint is a keyed hash, from which nothing of a key follows.

use std::time::Duration;

use super::{RedisStore, millis};
use crate::vault::keyring::Fingerprint;
use crate::vault::lookup::hex;
use crate::vault::store::{KeyringMismatch, StoreError};

/// How long a keyring stays the agreed one after the last comparison by a node that has it.
pub(in crate::vault) const AGREEMENT_TTL: Duration = Duration::from_secs(600);

const AGREEMENT_KEY: &str = "sipwake:ring";

/// The name of a memo in the slot of [`AGREEMENT_KEY`]: its hash tag is that key.
pub(in crate::vault) fn beside_agreement(memo: &str) -> String {
    format!("{{{AGREEMENT_KEY}}}:{memo}")
}

/// The writes of a comparison to the store. Each variant includes those before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::vault) enum AgreementWrite {
    /// Nothing.
    Nothing,
    /// Prolongs this keyring's fingerprint where it is the agreed one, and replaces that of a copy that was rotated less often.
    Refresh,
    /// Writes this keyring's fingerprint where there is none.
    IfAbsent,
    /// Writes this keyring's fingerprint in the place of another keyring's.
    Replace,
}

/// The result of a comparison.
pub(in crate::vault) enum Compared {
    /// This keyring is the agreed one.
    Stands,
    /// There is none, or none of today: the store has lost it, or no living node has compared yet.
    Absent,
    /// Another keyring, or another copy, is the agreed one.
    Fault(KeyringMismatch),
}

impl RedisStore {
    /// Compares this keyring with the agreed one.
    pub async fn check_keyring(&self, mine: &Fingerprint, write: AgreementWrite) -> Result<Compared, StoreError> {
        let identity = hex(&mine.identity);
        if write == AgreementWrite::Replace {
            let mut set = ::redis::cmd("SET");
            self.link.ask::<()>(set.arg(AGREEMENT_KEY).arg(&identity).arg("PX").arg(millis(AGREEMENT_TTL))).await?;
        }
        match self.agreed(AGREEMENT_KEY, &identity, write).await? {
            None => return Ok(Compared::Absent),
            Some(theirs) if theirs != identity => return Ok(Compared::Fault(KeyringMismatch::Other)),
            Some(_) => {}
        }
        let key = format!("{AGREEMENT_KEY}:{identity}:{}", mine.day);
        let chain = format!("{}:{}", mine.rotation, hex(&mine.chain));
        let Some(theirs) = self.agreed(&key, &chain, write).await? else { return Ok(Compared::Absent) };
        let rotation = theirs.split_once(':').and_then(|(rotation, _)| rotation.parse::<u32>().ok()).unwrap_or(0);
        if theirs == chain {
            return Ok(Compared::Stands);
        }
        if rotation < mine.rotation {
            if write != AgreementWrite::Nothing {
                let mut set = ::redis::cmd("SET");
                self.link.ask::<()>(set.arg(&key).arg(&chain).arg("PX").arg(millis(AGREEMENT_TTL))).await?;
            }
            return Ok(Compared::Stands);
        }
        Ok(Compared::Fault(if rotation > mine.rotation { KeyringMismatch::Behind } else { KeyringMismatch::Parted }))
    }

    /// The agreed value of a key.
    async fn agreed(&self, key: &str, mine: &str, write: AgreementWrite) -> Result<Option<String>, StoreError> {
        let get = async || self.text_at(key).await;
        let mut stands = get().await?;
        if write == AgreementWrite::Nothing {
            return Ok(stands);
        }
        if stands.is_none() && matches!(write, AgreementWrite::IfAbsent | AgreementWrite::Replace) {
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
