-- Takes over the records of nodes that are dead. What is no record of this version keeps none of the others from being taken.
-- keys: the records, which are one in a Cluster
-- answers: of each an outcome (one that is damaged is nobody's, and is left), the earlier owner, sealed, expiry, fence, the node that put it last where another one has claimed it since,
-- the nodes that have had it, the latest first, but for the last one, which stays the last; one in a line
local GONE, LEFT, TAKEN, DAMAGED = 0, 1, 2, 3
-- The owner to be, a ticket for each record, each node whose records may be taken. A ticket tells a repeated call, whose first answer was
-- lost, from one that finds a record already owned.
local owner, takeable, nodes = ARGV[1], {}, {}
for place = #KEYS + 2, #ARGV do takeable[ARGV[place]] = true end

local function node_of(run)
  local node = nodes[run]
  if node == nil then
    node = string.match(run, '^(.*)#[^#]*$') or false
    nodes[run] = node
  end
  return node
end

-- So many nodes are remembered of a record.
local HAD_BY_MAX = 4

-- The nodes in these lines, behind this one. The last one is never left out, and stays the last where it has had the record again: it may have been
-- registered, and those before it have had the record without that, for a registered owner's write forgets them all.
local function with_latest(lines, latest)
  local all, last = {}, nil
  for node in string.gmatch(lines, '[^\n]+') do
    if node ~= latest then all[#all + 1] = node end
    last = node
  end
  table.insert(all, last == latest and #all + 1 or 1, latest)
  while #all > HAD_BY_MAX do table.remove(all, #all - 1) end
  return table.concat(all, '\n')
end

local function claim(record, ticket)
  local have = redis.pcall('HMGET', record, 'o', 's', 'e', 'f', 'c', 'p', 'h')
  if have.err then return {DAMAGED, '', '', 0, 0, '', ''} end
  local had_owner, sealed, expires_at, had_fence, had_ticket = have[1], have[2], have[3], have[4], have[5]
  if not (had_owner or sealed or expires_at or had_fence) then return {GONE, '', '', 0, 0, '', ''} end
  if not (is_owner(had_owner) and sealed and is_number(expires_at) and is_number(had_fence)) then
    return {DAMAGED, had_owner or '', '', 0, 0, '', ''}
  end
  local put_by, had_by = have[6] or '', have[7] or ''
  local left = {LEFT, had_owner, '', 0, 0, '', ''}
  if had_owner == owner then
    return had_ticket == ticket and {TAKEN, had_owner, sealed, expires_at, had_fence, put_by, had_by} or left
  end
  local node = node_of(had_owner)
  if not (node and takeable[node]) then return left end
  local fence = string.format('%.0f', tonumber(had_fence) + 1)
  redis.call('HSET', record, 'o', owner, 'c', ticket, 'f', fence)
  if put_by == '' and node ~= node_of(owner) then
    put_by = node
    redis.call('HSET', record, 'p', put_by)
  end
  if node ~= node_of(owner) then
    had_by = with_latest(had_by, node)
    redis.call('HSET', record, 'h', had_by)
  end
  return {TAKEN, had_owner, sealed, expires_at, fence, put_by, had_by}
end

local claimed = {}
for place = 1, #KEYS do claimed[place] = claim(KEYS[place], ARGV[place + 1]) end
return claimed
