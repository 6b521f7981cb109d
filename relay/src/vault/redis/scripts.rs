//! The scripts that run inside Redis, one for each change that must be atomic: `scripts/*.lua`. The head of each names its arguments and answers.
//!
//! Invariant: a script touches only the keys that it names: in a Cluster a single one, or those of one instance. It has the same effect when it is run twice
//! with the same arguments, so that a call whose answer was lost may be repeated. A script that would do harm after its caller has given up does nothing then
//! (`in_time.lua`): its first argument is that deadline. A script that makes a key without an expiry sets one in the same run, or undoes its write
//! (`lasting.lua`). A number that a script answers has the same meaning on both sides.

use std::sync::LazyLock;

use redis::{FromRedisValue, ParsingError, Script, Value};

/// An enum of what a script answers by number, each variant with its name in Lua.
macro_rules! answers {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $lua:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            #[cfg(test)]
            const IN_LUA: &[(&str, i64)] = &[$(($lua, $number),)*];

            /// `None`: the number means something else.
            pub(super) fn of_number(number: i64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl FromRedisValue for $name {
            fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
                let number = i64::from_redis_value(value)?;
                Self::of_number(number).ok_or_else(|| format!("{number} is no answer of the script").into())
            }
        }
    };
}

answers!(
    /// What [`Scripts::put`] answers in place of a fence.
    PutRefusal {
        /// Another owner has the record.
        NotOwner = -1 "NOT_OWNER",
        /// There is no record to update.
        Gone = -2 "GONE",
    }
);
answers!(
    /// What became of a record that was to be erased.
    EraseOutcome {
        /// There was none.
        Gone = 0 "GONE",
        /// The record is erased.
        Erased = 1 "ERASED",
        /// Nothing was erased: another node owns it, and is to be told first.
        Others = 2 "OTHERS",
        /// Nothing was erased: another node owns it, or has owned it, since it was ended here, and nobody's word ends it.
        Left = 3 "LEFT",
    }
);
answers!(
    /// What became of an item that was to be kept.
    KeepOutcome {
        /// There is no record to keep it beside.
        Gone = 0 "GONE",
        /// It is kept.
        Kept = 1 "KEPT",
        /// It was kept before, by another call.
        Known = 2 "KNOWN",
        /// The collection is full.
        Full = 3 "FULL",
    }
);
answers!(
    /// What became of a record that was to be claimed.
    ClaimOutcome {
        /// There is no such record.
        Gone = 0 "GONE",
        /// It has an owner that may keep it.
        Left = 1 "LEFT",
        /// It is now this run's.
        Taken = 2 "TAKEN",
        /// What lies there is no record that a relay has written so.
        Damaged = 3 "DAMAGED",
    }
);

answers!(
    /// The server's verdict on a command, at an examination.
    ScratchVerdict {
        /// It was run.
        Granted = 0 "GRANTED",
        /// The relay's user may not run it.
        Forbidden = 1 "FORBIDDEN",
        /// The server does not know it.
        Unknown = 2 "UNKNOWN",
    }
);

/// What [`Scripts::erase`] answers: the outcome, the owner, the lookup.
pub(super) type Erased = (EraseOutcome, Vec<u8>, Vec<u8>);

/// What [`Scripts::claim`] answers of each record.
pub(super) struct Claimed {
    pub outcome: ClaimOutcome,
    /// The owner that the record had.
    pub owner: Vec<u8>,
    pub sealed: Vec<u8>,
    /// In seconds since 1970.
    pub expires_at: u64,
    pub fence: u64,
    /// The node that put it last, where another one has claimed it since; else empty.
    pub put_by: Vec<u8>,
    /// The nodes that have had it, the latest first, but for the last one, which stays the last; one in a line.
    pub had_by: Vec<u8>,
}

impl FromRedisValue for Claimed {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (outcome, owner, sealed, expires_at, fence, put_by, had_by) = FromRedisValue::from_redis_value(value)?;
        Ok(Self { outcome, owner, sealed, expires_at, fence, put_by, had_by })
    }
}

const IN_TIME: &str = include_str!("scripts/in_time.lua");
const READ: &str = include_str!("scripts/read.lua");
const LASTING: &str = include_str!("scripts/lasting.lua");
const SOUND: &str = include_str!("scripts/sound.lua");
const ORDER: &str = include_str!("scripts/order.lua");
const PUT: &str = include_str!("scripts/put.lua");
const ERASE: &str = include_str!("scripts/erase.lua");
const KEEP: &str = include_str!("scripts/keep.lua");
const CLAIM: &str = include_str!("scripts/claim.lua");
const SCRATCH: &str = include_str!("scripts/scratch.lua");

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let script = |parts: &[&str]| Script::new(&parts.concat());
    Scripts {
        put: script(&[IN_TIME, READ, ORDER, SOUND, LASTING, PUT]),
        erase: script(&[READ, ERASE]),
        keep: script(&[READ, ORDER, LASTING, KEEP]),
        claim: script(&[IN_TIME, SOUND, CLAIM]),
        point: script(&[IN_TIME, READ, include_str!("scripts/point.lua")]),
        unpoint: script(&[READ, include_str!("scripts/unpoint.lua")]),
        release: script(&[READ, include_str!("scripts/release.lua")]),
        drop: script(&[READ, include_str!("scripts/drop.lua")]),
        add: script(&[READ, LASTING, include_str!("scripts/add.lua")]),
        mark: script(&[READ, include_str!("scripts/mark.lua")]),
        time: script(&[include_str!("scripts/time.lua")]),
        post: script(&[READ, LASTING, include_str!("scripts/post.lua")]),
        scratch: script(&[SCRATCH]),
    }
});

pub(super) struct Scripts {
    /// Writes a record: a fence or a [`PutRefusal`], the earlier lookup, the earlier owner.
    pub put: Script,
    /// Erases a record and what is kept beside it: [`Erased`].
    pub erase: Script,
    /// Keeps an item beside a record: [`KeepOutcome`].
    pub keep: Script,
    /// Takes over records of the dead: [`Claimed`] of each.
    pub claim: Script,
    /// Points a lookup to an instance, and answers the one that it was taken from, or is left to.
    pub point: Script,
    /// Removes a lookup that names an instance.
    pub unpoint: Script,
    /// Gives a lease back.
    pub release: Script,
    /// Ends a lease without giving it back.
    pub drop: Script,
    /// Adds members to a set.
    pub add: Script,
    /// Counts the writes of a run: the count.
    pub mark: Script,
    /// Tells the time: in milliseconds since 1970.
    pub time: Script,
    /// Puts a letter into a list: whether it was taken.
    pub post: Script,
    /// Makes a key of an examination: [`ScratchVerdict`].
    pub scratch: Script,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_and_its_reader_mean_the_same_by_a_number() {
        let all = [
            (PUT, PutRefusal::IN_LUA),
            (ERASE, EraseOutcome::IN_LUA),
            (KEEP, KeepOutcome::IN_LUA),
            (CLAIM, ClaimOutcome::IN_LUA),
            (SCRATCH, ScratchVerdict::IN_LUA),
        ];
        for (script, answers) in all {
            let (names, numbers): (Vec<_>, Vec<_>) =
                answers.iter().map(|(name, number)| (*name, number.to_string())).unzip();
            let declared = format!("local {} = {}\n", names.join(", "), numbers.join(", "));
            assert!(script.contains(&declared), "not in the script: {declared}");
        }
    }
}
