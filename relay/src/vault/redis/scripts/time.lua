-- Answers what the clock of the server says that has this key, in milliseconds since 1970.
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000)
