-- Writes a record, for its owner alone.
-- keys: the record, its collections
-- answers: the fence or a refusal, the earlier lookup, the earlier owner
local NOT_OWNER, GONE = -1, -2
local record, last = KEYS[1], KEYS[#KEYS]
local sealed, owner, fence, expires_at, lookup, left_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
-- The last collection is kept so long after its newest item, in milliseconds, if the record lives so long.
local life_ms = tonumber(ARGV[7])
-- What an earlier owner has is written over.
local restores = ARGV[8] == '1'

local have = read('HMGET', record, 'o', 'f', 'l')
if not have then
  if fence > 0 and not restores then return {NOT_OWNER, '', ''} end
  redis.call('DEL', record)
  have = {}
end
local had_owner, had_fence, had_lookup = have[1], have[2], have[3]
if had_owner then
  local stored = tonumber(had_fence) or -1
  if fence == 0 and stored == 1 then fence = 1 end
  local is_ours = had_owner == owner and fence == stored
  if not (is_ours or restores and fence > stored) then return {NOT_OWNER, '', had_owner} end
elseif fence == 0 then
  fence = 1
elseif not restores then
  return {GONE, '', ''}
end
redis.call('HSET', record, 's', sealed, 'o', owner, 'f', fence, 'e', expires_at, 'l', lookup)
redis.call('HDEL', record, 'p')
redis.call('PEXPIRE', record, left_ms)
local left = redis.call('PTTL', record)
for place = 2, #KEYS do
  if redis.call('PTTL', KEYS[place]) > left then redis.call('PEXPIRE', KEYS[place], left_ms) end
end
if life_ms > 0 and redis.call('EXISTS', last) == 1 then
  local time, newest, all = redis.call('TIME'), 0, read('HGETALL', last) or {}
  for place = 2, #all, 2 do
    newest = math.max(newest, order_of(all[place]))
  end
  local more = math.min(left, newest + life_ms - time[1] * 1000 - math.floor(time[2] / 1000))
  if more > redis.call('PTTL', last) then redis.call('PEXPIRE', last, string.format('%.0f', more)) end
end
return {fence, had_lookup or '', had_owner or ''}
