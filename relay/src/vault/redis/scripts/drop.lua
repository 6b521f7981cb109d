-- Ends a lease that this run holds, or has given back, without a word.
local lease, run, released = KEYS[1], ARGV[1], ARGV[2]

local held = read('GET', lease)
if held == run or held == released then redis.call('DEL', lease) end
return redis.status_reply('OK')
