-- Writes a record, for its owner alone.
-- keys: the record, its collections
-- answers: the fence or a refusal, the earlier lookup, the earlier owner
local NOT_OWNER, GONE = -1, -2
local record = KEYS[1]
local sealed, owner, fence, expires_at, lookup, left_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
-- What an earlier owner has is written over.
local restores = ARGV[7] == '1'
-- So is what another owner has by this fence: it is this owner's by the next one.
local takes_over = ARGV[7] == '2'
-- It is registered from here: the Contacts of the nodes that have had it are gone.
local is_registered = ARGV[7] == '3'
-- Behind it: how long each collection is kept after its newest item, in milliseconds, if the record lives so long.
local LIVES = 7

local have = read('HMGET', record, 'o', 'f', 'l', 's', 'e')
if not have then
  if fence > 0 and not restores then return {GONE, '', ''} end
  redis.call('DEL', record)
  have = {}
end
local had_owner, had_fence, had_lookup, had_sealed, had_expires_at = have[1], have[2], have[3], have[4], have[5]
if not is_owner(had_owner) or had_owner == owner and not is_number(had_fence) then
  -- A damaged record is as good as none: its owner, which has it, writes it again.
  had_owner = nil
end
if had_owner then
  local stored = tonumber(had_fence) or -1
  if fence == 0 and stored == 1 then fence = 1 end
  local is_ours = had_owner == owner and fence == stored
  local was_over = had_owner == owner and stored == fence + 1
  local is_over = takes_over and (was_over or had_owner ~= owner and fence == stored)
  if not (is_ours or is_over or restores and fence > stored) then return {NOT_OWNER, '', had_owner} end
  if is_over then fence = fence + 1 end
elseif fence == 0 then
  fence = 1
elseif not restores then
  return {GONE, '', ''}
end
redis.call('HSET', record, 's', sealed, 'o', owner, 'f', fence, 'e', expires_at, 'l', lookup)
last(record, left_ms, function()
  if not (had_owner and had_lookup and had_sealed and had_expires_at) then return redis.call('DEL', record) end
  redis.call('HSET', record, 's', had_sealed, 'o', had_owner, 'f', had_fence, 'e', had_expires_at, 'l', had_lookup)
end)
redis.call('HDEL', record, 'p')
if is_registered then redis.call('HDEL', record, 'h') end
local left = redis.call('PTTL', record)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for place = 2, #KEYS do
  local collection, lasts = KEYS[place], redis.call('PTTL', KEYS[place])
  if lasts > left then
    redis.call('PEXPIRE', collection, left_ms)
  elseif lasts >= 0 and lasts < left - 1000 then
    -- A lease that was renewed has what lies beside it go on, as long as its own time.
    local newest, all = 0, read('HGETALL', collection) or {}
    for item = 2, #all, 2 do newest = math.max(newest, order_of(all[item])) end
    local more = math.min(left, newest + tonumber(ARGV[LIVES + place - 1]) - now)
    if more > lasts then redis.call('PEXPIRE', collection, string.format('%.0f', more)) end
  end
end
return {fence, had_lookup or '', had_owner or ''}
