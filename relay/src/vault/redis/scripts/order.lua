-- The order of an item, which the first eight bytes of its value are.
local function order_of(value)
  local order = 0
  for digit = 1, 8 do order = order * 256 + (string.byte(value, digit) or 0) end
  return order
end
