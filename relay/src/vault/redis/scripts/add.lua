-- Adds members to a set, and has it live on. arguments: how long, in milliseconds; the members
local set, life_ms = KEYS[1], ARGV[1]

if not read('SADD', set, unpack(ARGV, 2)) then
  redis.call('DEL', set)
  redis.call('SADD', set, unpack(ARGV, 2))
end
last(set, life_ms)
return redis.status_reply('OK')
