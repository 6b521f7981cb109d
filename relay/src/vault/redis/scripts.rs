//! What runs inside Redis: one script for each change that must happen as a whole.
//!
//! Invariant: each script touches the one key that it names, and does the same when it is run twice with the same
//! arguments, so that a call whose answer was lost may be repeated.

use std::sync::LazyLock;

use redis::Script;

/// What [`Scripts::put`] answers in place of a fence: another owner has the record.
pub(super) const NOT_OWNER: i64 = -1;
/// What [`Scripts::put`] answers in place of a fence: there is no record to update.
pub(super) const GONE: i64 = -2;

/// What [`Scripts::erase`] answers: whether there was a record, its owner, its lookup.
pub(super) type Erased = (bool, String, String);

/// What [`Scripts::claim`] answers: one of the outcomes below, the earlier owner, sealed, expiry, fence.
pub(super) type Claimed = (u8, String, Vec<u8>, u64, u64);
/// There is no such record.
pub(super) const CLAIM_GONE: u8 = 0;
/// It has an owner that may keep it.
pub(super) const CLAIM_LEFT: u8 = 1;
/// It is now this run's.
pub(super) const CLAIM_TAKEN: u8 = 2;

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    put: Script::new(PUT),
    erase: Script::new(ERASE),
    claim: Script::new(CLAIM),
    point: Script::new(POINT),
    unpoint: Script::new(UNPOINT),
    release: Script::new(RELEASE),
    add: Script::new(ADD),
});

pub(super) struct Scripts {
    /// Record; sealed, owner, fence, expiry in seconds, lookup → fence, earlier lookup.
    pub put: Script,
    /// Record → [`Erased`].
    pub erase: Script,
    /// Record; owner, ticket, each node whose records may be taken → [`Claimed`].
    pub claim: Script,
    /// Lookup; instance, expiry in seconds, whether to take it → the instance that it was taken from.
    pub point: Script,
    /// Lookup; instance.
    pub unpoint: Script,
    /// Lease; run, what a released lease holds, milliseconds.
    pub release: Script,
    /// Set; member, milliseconds.
    pub add: Script,
}

const PUT: &str = r"
local have = redis.call('HMGET', KEYS[1], 'o', 'f', 'l')
local fence = tonumber(ARGV[3])
if have[1] then
  local stored = tonumber(have[2])
  if fence == 0 and stored == 1 then fence = 1 end
  if have[1] ~= ARGV[2] or fence ~= stored then return {-1, ''} end
elseif fence == 0 then
  fence = 1
else
  return {-2, ''}
end
redis.call('HSET', KEYS[1], 's', ARGV[1], 'o', ARGV[2], 'f', fence, 'e', ARGV[4], 'l', ARGV[5])
redis.call('PEXPIREAT', KEYS[1], ARGV[4] .. '000')
return {fence, have[3] or ''}
";

const ERASE: &str = r"
local have = redis.call('HMGET', KEYS[1], 'o', 'l')
return {redis.call('DEL', KEYS[1]), have[1] or '', have[2] or ''}
";

// The ticket tells a repeated call, whose first answer was lost, from one that finds a record already owned.
const CLAIM: &str = r"
local have = redis.call('HMGET', KEYS[1], 'o', 's', 'e', 'f', 'c')
if not (have[1] and have[2] and have[3] and have[4]) then return {0, '', '', 0, 0} end
if have[1] == ARGV[1] then
  if have[5] ~= ARGV[2] then return {1, have[1], '', 0, 0} end
  return {2, have[1], have[2], have[3], have[4]}
end
local node = string.match(have[1], '^(.*)#[^#]*$')
for place = 3, #ARGV do
  if node == ARGV[place] then
    local fence = redis.call('HINCRBY', KEYS[1], 'f', 1)
    redis.call('HSET', KEYS[1], 'o', ARGV[1], 'c', ARGV[2])
    return {2, have[1], have[2], have[3], fence}
  end
end
return {1, have[1], '', 0, 0}
";

const POINT: &str = r"
local at = redis.call('GET', KEYS[1])
local other = at and at ~= ARGV[1]
if other and ARGV[3] == '0' then return '' end
redis.call('SET', KEYS[1], ARGV[1], 'PXAT', ARGV[2] .. '000')
return other and at or ''
";

const UNPOINT: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.status_reply('OK')
";

const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return redis.status_reply('OK')
";

const ADD: &str = r"
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.status_reply('OK')
";
