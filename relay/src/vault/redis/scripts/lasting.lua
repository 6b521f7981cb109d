-- Gives a key its end. Redis undoes nothing of a script that fails: where it refuses that, what was written is taken back, no key stays that has no end, and
-- the script ends with the refusal. `take_back` is for a key that had one before.
local function last(key, life_ms, take_back)
  local answer = redis.pcall('PEXPIRE', key, life_ms)
  if type(answer) ~= 'table' or not answer.err then return end
  if redis.call('PTTL', key) == -1 then
    redis.call('DEL', key)
  elseif take_back then
    take_back()
  end
  redis.call('PEXPIRE', key, life_ms)
end
