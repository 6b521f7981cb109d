-- Keeps an item beside a record, and no longer than that.
-- keys: the record, one of its collections
-- answers: an outcome
local GONE, KEPT, KNOWN, FULL = 0, 1, 2, 3
local record, collection = KEYS[1], KEYS[2]
local item_key, value, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local oldest_goes, is_replaced = ARGV[4] == '1', ARGV[5] == '1'
-- How long the collection is kept, in milliseconds (0: as long as the record), and the least order of an item that is.
local life_ms, least_order = tonumber(ARGV[6]), tonumber(ARGV[7])

local left = redis.call('PTTL', record)
if left <= 0 then return GONE end
if not read('HLEN', collection) then redis.call('DEL', collection) end
if life_ms > 0 then
  local all = redis.call('HGETALL', collection)
  for place = 1, #all, 2 do
    if order_of(all[place + 1]) < least_order then redis.call('HDEL', collection, all[place]) end
  end
  if life_ms < left then left = life_ms end
end
local have = redis.call('HGET', collection, item_key)
if have == value then return KEPT end
if have and not is_replaced then return KNOWN end
if not have and redis.call('HLEN', collection) >= limit then
  if not oldest_goes then return FULL end
  local all, oldest, least = redis.call('HGETALL', collection), nil, nil
  for place = 1, #all, 2 do
    local order = string.sub(all[place + 1], 1, 8)
    if not least or order < least then oldest, least = all[place], order end
  end
  redis.call('HDEL', collection, oldest)
end
redis.call('HSET', collection, item_key, value)
last(collection, left, function()
  if have then
    redis.call('HSET', collection, item_key, have)
  else
    redis.call('HDEL', collection, item_key)
  end
end)
return KEPT
