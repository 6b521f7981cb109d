-- Erases a record and what is kept beside it.
-- keys: the record, its collections
-- answers: an outcome, the owner, the lookup
local GONE, ERASED, OTHERS, LEFT = 0, 1, 2, 3
local record = KEYS[1]
-- The run of another node whose record is erased as well.
local own_node, other_run = ARGV[1], ARGV[2]
-- Where it is given, no later fence is erased, and no other node's with this one, which has claimed it since.
local last_fence = tonumber(ARGV[3])
-- Where it is given, nothing else is erased.
local last_sealed = ARGV[4]

local have = read('HMGET', record, 'o', 'l', 'f', 's') or {}
local owner, lookup, fence, sealed = have[1], have[2], tonumber(have[3] or '') or 0, have[4]
local node = owner and string.match(owner, '^(.*)#[^#]*$')
if last_fence and owner and (fence > last_fence or node ~= own_node and fence == last_fence) then
  return {LEFT, owner, ''}
end
if last_sealed ~= '' and sealed and sealed ~= last_sealed then return {LEFT, owner or '', ''} end
if node and node ~= own_node and owner ~= other_run then return {OTHERS, owner, lookup or ''} end
for place = 2, #KEYS do redis.call('DEL', KEYS[place]) end
local existed = redis.call('DEL', record) == 1
return {existed and ERASED or GONE, owner or '', lookup or ''}
