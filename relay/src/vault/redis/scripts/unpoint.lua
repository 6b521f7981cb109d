-- Removes a lookup that names this instance.
local lookup, instance = KEYS[1], ARGV[1]

if read('GET', lookup) == instance then redis.call('DEL', lookup) end
return redis.status_reply('OK')
