-- Takes the first argument away: from this time of the server's own clock on, in milliseconds since 1970, the script does nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(table.remove(ARGV, 1)) then return redis.error_reply(string.format('LATE %.0f', now)) end
