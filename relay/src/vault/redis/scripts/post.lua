-- Puts a letter behind the others; answers whether it was taken. Of a letter that comes twice its reader takes one.
local letters, letter, most, life_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]

local count = read('LLEN', letters)
if not count then redis.call('DEL', letters) end
if (count or 0) >= most then return 0 end
redis.call('RPUSH', letters, letter)
last(letters, life_ms, function() redis.call('RPOP', letters) end)
return 1
