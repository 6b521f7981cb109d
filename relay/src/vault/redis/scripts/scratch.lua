-- Runs a command that makes a key, which has an end in the same step.
-- arguments: how long, in milliseconds; the command; what follows the key
-- answers: a verdict
local GRANTED, FORBIDDEN, UNKNOWN = 0, 1, 2

local answer = redis.pcall(ARGV[2], KEYS[1], unpack(ARGV, 3))
local lasts = redis.pcall('PEXPIRE', KEYS[1], ARGV[1])
if type(lasts) == 'table' and lasts.err then redis.pcall('DEL', KEYS[1]) end
if type(answer) ~= 'table' or not answer.err then return GRANTED end
for _, words in ipairs({'NOPERM', 'ACL failure', 'no permissions', "can't run this command"}) do
  if string.find(answer.err, words, 1, true) then return FORBIDDEN end
end
if string.find(answer.err, 'nknown Redis command', 1, true) or string.find(answer.err, 'nknown command', 1, true) then
  return UNKNOWN
end
return redis.error_reply(answer.err)
