-- Runs a command; false where the key holds another type than the command is for, which no relay has written.
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if string.find(answer.err, 'WRONGTYPE', 1, true) then return false end
  return redis.call(...)
end
