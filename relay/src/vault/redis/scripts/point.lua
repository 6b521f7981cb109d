-- Has a lookup name an instance; answers the one that it was taken from, or that it is left to.
local lookup, instance, left_ms, takes = KEYS[1], ARGV[1], ARGV[2], ARGV[3] == '1'

local at = read('GET', lookup)
local is_other = at and at ~= instance
if is_other and not takes then return '' end
redis.call('SET', lookup, instance, 'PX', left_ms)
return is_other and at or ''
