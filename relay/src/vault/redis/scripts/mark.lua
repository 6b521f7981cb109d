-- Counts on; answers the count. Counted twice when it is run twice, which does no harm.
local mark, life_ms = KEYS[1], ARGV[1]

local count = read('GET', mark) or ''
count = string.match(count, '^%d+$') and #count <= 15 and tonumber(count) or 0
redis.call('SET', mark, string.format('%.0f', count + 1), 'PX', life_ms)
return count + 1
