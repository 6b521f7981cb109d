//! What runs inside Redis: one script for each change that must happen as a whole.
//!
//! Invariant: each script touches the keys that it names, which in a Cluster are one, or those of one instance, and does the same when it
//! is run twice with the same arguments, so that a call whose answer was lost may be repeated. What would do harm when it is run after its asker has
//! given up does nothing then.

use std::sync::LazyLock;

use redis::Script;

/// What [`Scripts::put`] answers in place of a fence: another owner has the record.
pub(super) const NOT_OWNER: i64 = -1;
/// What [`Scripts::put`] answers in place of a fence: there is no record to update.
pub(super) const GONE: i64 = -2;

/// What [`Scripts::erase`] answers: one of the outcomes below, the owner, the lookup.
pub(super) type Erased = (u8, Vec<u8>, Vec<u8>);
/// There was no record.
pub(super) const ERASE_GONE: u8 = 0;
/// Nothing was erased: another node owns it, and is to be told first.
pub(super) const ERASE_OTHERS: u8 = 2;
/// Nothing was erased: another node owns it, or has owned it, since it was ended here, and nobody's word ends it.
pub(super) const ERASE_LEFT: u8 = 3;

/// What [`Scripts::claim`] answers of each record: one of the outcomes below, the earlier owner, sealed, expiry, fence, the node that put it last where
/// another one has claimed it since.
pub(super) type Claimed = (u8, Vec<u8>, Vec<u8>, u64, u64, Vec<u8>);
/// There is no such record.
pub(super) const CLAIM_GONE: u8 = 0;
/// It has an owner that may keep it.
pub(super) const CLAIM_LEFT: u8 = 1;
/// It is now this run's.
pub(super) const CLAIM_TAKEN: u8 = 2;

/// What [`Scripts::keep`] answers: there is no record to keep it beside.
pub(super) const KEEP_GONE: u8 = 0;
/// It is kept.
pub(super) const KEEP_DONE: u8 = 1;
/// It was kept before, by another call.
pub(super) const KEEP_KNOWN: u8 = 2;
/// The collection is full.
pub(super) const KEEP_FULL: u8 = 3;

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    put: Script::new(&[IN_TIME, READ, PUT].concat()),
    erase: Script::new(&[READ, ERASE].concat()),
    keep: Script::new(&[READ, KEEP].concat()),
    claim: Script::new(&[IN_TIME, CLAIM].concat()),
    point: Script::new(&[IN_TIME, READ, POINT].concat()),
    unpoint: Script::new(&[READ, UNPOINT].concat()),
    release: Script::new(&[READ, RELEASE].concat()),
    add: Script::new(&[READ, ADD].concat()),
    mark: Script::new(&[READ, MARK].concat()),
    post: Script::new(&[READ, POST].concat()),
});

pub(super) struct Scripts {
    /// Record, its collections; when it is [late](IN_TIME), sealed, owner, fence, expiry in seconds, lookup, milliseconds left, milliseconds that what lies in
    /// the last collection is kept if the record lives so long, whether what an earlier owner has is written over → fence, earlier lookup,
    /// earlier owner.
    pub put: Script,
    /// Record, its collections; the node, the run of another node whose is erased as well, and where it is given the last fence that this node's own may have
    /// had: then no later one is, and no other node's with this one, which has claimed it since → [`Erased`].
    pub erase: Script,
    /// Record, one of its collections; item key, order and sealed, limit, whether the oldest goes at the limit, whether it takes an
    /// earlier one's place, milliseconds that one is kept (0: as long as the record), the least order that is → an outcome above.
    pub keep: Script,
    /// Records, which are one in a Cluster; when it is [late](IN_TIME), owner, a ticket for each, each node whose records may be taken → [`Claimed`] of each.
    pub claim: Script,
    /// Lookup; when it is [late](IN_TIME), instance, milliseconds left, whether to take it → the instance that it was taken from.
    pub point: Script,
    /// Lookup; instance.
    pub unpoint: Script,
    /// Lease; run, what a released lease holds, milliseconds.
    pub release: Script,
    /// Set; milliseconds, members.
    pub add: Script,
    /// Mark; milliseconds → its number. Counted twice when it is run twice, which does no harm.
    pub mark: Script,
    /// List; letter, the most letters, milliseconds → whether it was taken.
    pub post: Script,
}

/// Takes the first argument away: from this time of the server's own clock on, in milliseconds since 1970, the script does nothing.
const IN_TIME: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(table.remove(ARGV, 1)) then return redis.error_reply(string.format('LATE %.0f', now)) end
";

/// Runs a command; false where the key holds another type than the command is for, which no relay has written.
const READ: &str = r"
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return false end
  return redis.call(...)
end
";

const PUT: &str = r"
local have = read('HMGET', KEYS[1], 'o', 'f', 'l')
local fence, restores = tonumber(ARGV[3]), ARGV[8] == '1'
if not have then
  if fence > 0 and not restores then return {-1, '', ''} end
  redis.call('DEL', KEYS[1])
  have = {}
end
if have[1] then
  local stored = tonumber(have[2]) or -1
  if fence == 0 and stored == 1 then fence = 1 end
  local is_ours = have[1] == ARGV[2] and fence == stored
  if not (is_ours or restores and fence > stored) then return {-1, '', have[1]} end
elseif fence == 0 then
  fence = 1
elseif not restores then
  return {-2, '', ''}
end
redis.call('HSET', KEYS[1], 's', ARGV[1], 'o', ARGV[2], 'f', fence, 'e', ARGV[4], 'l', ARGV[5])
redis.call('HDEL', KEYS[1], 'p')
redis.call('PEXPIRE', KEYS[1], ARGV[6])
local left = redis.call('PTTL', KEYS[1])
for place = 2, #KEYS do
  if redis.call('PTTL', KEYS[place]) > left then redis.call('PEXPIRE', KEYS[place], ARGV[6]) end
end
local life, last = tonumber(ARGV[7] or '0'), KEYS[#KEYS]
if life > 0 and redis.call('EXISTS', last) == 1 then
  local time, newest, all = redis.call('TIME'), 0, read('HGETALL', last) or {}
  for place = 2, #all, 2 do
    local order = 0
    for digit = 1, 8 do order = order * 256 + (string.byte(all[place], digit) or 0) end
    if order > newest then newest = order end
  end
  local more = math.min(left, newest + life - time[1] * 1000 - math.floor(time[2] / 1000))
  if more > redis.call('PTTL', last) then redis.call('PEXPIRE', last, string.format('%.0f', more)) end
end
return {fence, have[3] or '', have[1] or ''}
";

const ERASE: &str = r"
local have = read('HMGET', KEYS[1], 'o', 'l', 'f') or {}
local node = have[1] and string.match(have[1], '^(.*)#[^#]*$')
local own = tonumber(ARGV[3] or '')
local stored = tonumber(have[3] or '') or 0
if own and have[1] and (stored > own or node ~= ARGV[1] and stored == own) then return {3, have[1], ''} end
if node and node ~= ARGV[1] and have[1] ~= ARGV[2] then return {2, have[1], have[2] or ''} end
for place = 2, #KEYS do redis.call('DEL', KEYS[place]) end
return {redis.call('DEL', KEYS[1]), have[1] or '', have[2] or ''}
";

// What is kept lives no longer than the record beside it; the first eight bytes of a value are its place in the order.
const KEEP: &str = r"
local left = redis.call('PTTL', KEYS[1])
if left <= 0 then return 0 end
if not read('HLEN', KEYS[2]) then redis.call('DEL', KEYS[2]) end
local life = tonumber(ARGV[6])
if life > 0 then
  local all = redis.call('HGETALL', KEYS[2])
  for place = 1, #all, 2 do
    local order = 0
    for digit = 1, 8 do order = order * 256 + (string.byte(all[place + 1], digit) or 0) end
    if order < tonumber(ARGV[7]) then redis.call('HDEL', KEYS[2], all[place]) end
  end
  if life < left then left = life end
end
local have = redis.call('HGET', KEYS[2], ARGV[1])
if have and (have == ARGV[2] or ARGV[5] == '0') then return have == ARGV[2] and 1 or 2 end
if not have and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then
  if ARGV[4] == '0' then return 3 end
  local all, oldest, least = redis.call('HGETALL', KEYS[2]), nil, nil
  for place = 1, #all, 2 do
    local order = string.sub(all[place + 1], 1, 8)
    if not least or order < least then oldest, least = all[place], order end
  end
  redis.call('HDEL', KEYS[2], oldest)
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], left)
return 1
";

// The ticket tells a repeated call, whose first answer was lost, from one that finds a record already owned. What is no record of
// this version keeps none of the others from being taken.
const CLAIM: &str = r"
local owner, takeable, nodes = ARGV[1], {}, {}
for place = #KEYS + 2, #ARGV do takeable[ARGV[place]] = true end
local function node_of(run)
  local node = nodes[run]
  if node == nil then
    node = string.match(run, '^(.*)#[^#]*$') or false
    nodes[run] = node
  end
  return node
end
local function claim(key, ticket)
  local have = redis.pcall('HMGET', key, 'o', 's', 'e', 'f', 'c', 'p')
  if have.err then return {1, '', '', 0, 0, ''} end
  if not (have[1] and have[2] and have[3] and have[4]) then return {0, '', '', 0, 0, ''} end
  local put_by = have[6] or ''
  local left = {1, have[1], '', 0, 0, ''}
  for place = 3, 4 do
    if not string.match(have[place], '^%d+$') or #have[place] > 15 then return left end
  end
  if have[1] == owner then
    return have[5] == ticket and {2, have[1], have[2], have[3], have[4], put_by} or left
  end
  local node = node_of(have[1])
  if not (node and takeable[node]) then return left end
  local fence = string.format('%.0f', tonumber(have[4]) + 1)
  redis.call('HSET', key, 'o', owner, 'c', ticket, 'f', fence)
  if put_by == '' and node ~= node_of(owner) then
    put_by = node
    redis.call('HSET', key, 'p', put_by)
  end
  return {2, have[1], have[2], have[3], fence, put_by}
end
local claimed = {}
for place = 1, #KEYS do claimed[place] = claim(KEYS[place], ARGV[place + 1]) end
return claimed
";

const POINT: &str = r"
local at = read('GET', KEYS[1])
local other = at and at ~= ARGV[1]
if other and ARGV[3] == '0' then return '' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return other and at or ''
";

const UNPOINT: &str = r"
if read('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return redis.status_reply('OK')
";

const RELEASE: &str = r"
if read('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return redis.status_reply('OK')
";

const ADD: &str = r"
if not read('SADD', KEYS[1], unpack(ARGV, 2)) then
  redis.call('DEL', KEYS[1])
  redis.call('SADD', KEYS[1], unpack(ARGV, 2))
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.status_reply('OK')
";

// Of a letter that comes twice its reader takes one.
const POST: &str = r"
local count = read('LLEN', KEYS[1])
if not count then redis.call('DEL', KEYS[1]) end
if (count or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

const MARK: &str = r"
local mark = read('GET', KEYS[1]) or ''
mark = string.match(mark, '^%d+$') and #mark <= 15 and tonumber(mark) or 0
redis.call('SET', KEYS[1], string.format('%.0f', mark + 1), 'PX', ARGV[1])
return mark + 1
";
