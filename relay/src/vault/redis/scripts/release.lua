-- Gives a lease back that this run holds.
local lease, run, released, lease_ms = KEYS[1], ARGV[1], ARGV[2], ARGV[3]

if read('GET', lease) == run then redis.call('SET', lease, released, 'PX', lease_ms) end
return redis.status_reply('OK')
