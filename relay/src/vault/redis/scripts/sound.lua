-- Whether this names a run of a node; whether this is a fence or a time, as a relay writes one.
local function is_owner(text) return text and string.match(text, '^.+#[^#]+$') ~= nil end
local function is_number(text) return text and string.match(text, '^%d+$') ~= nil and #text <= 15 end
