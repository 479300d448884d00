-- Gives pins of one shard their full time again, but not beyond their sessions' ends, and compares what is said of them. One that was
-- lost is written again.
--
-- KEYS 1 the shard's changes   2 the latest version that a session of the shard was given   3 the shard's nodes, as in resolve.lua
--      then for each session its pin and its ended version, as in resolve.lua
-- ARGV 1 the life in ms of a pin that has none of its own   2 changes to keep
--      then for each session its key, the pin as the proxy knows it: "version|node", or "", and how long that lives at least, or ""
-- Returns for each how long it lives from now on in ms, -1 if it is not there, or minus its
-- format if that is newer; and the places, from 0 on, of those that are
-- others than was said, and of those that were lost and are written again, until a request has said the rest of them.
--
-- Not a transaction: how long a pin lives is read from it, and which of two versions stays depends on both.
local lives, others, written = {}, {}, {}

-- Whether a node is in cooldown, and its boot id. Of what cannot be read nothing is known.
local function record(node)
  local text = redis.call('HGET', KEYS[3], node)
  local cooldown, boot = string.match(text and plain(text) or '', '^%d+|%a+|(%d+)|(.*)$')
  return cooldown and tonumber(cooldown) > time(), boot or ''
end

-- How long the pin lives; and the list that the session goes to.
local function touch(pin_key, ended_key, session, said, least)
  local pin, format = redis.call('GET', pin_key), nil
  if not pin then
    local version, node = believed(said)
    if not version then
      return -1
    end
    advance(KEYS[2], version)
    local life = least ~= '' and least or ARGV[1]
    if is_over(version, redis.call('GET', ended_key)) or life == '0' then
      return -1
    end
    local owned = time_of(version)
    local _, boot = record(node)
    -- Claimed at 0: how long the session lives is not known until a request says so.
    redis.call('SET', pin_key, table.concat({ version, '0', owned, boot, node }, '|'), 'PX', life)
    begin_log(KEYS[1])
    return tonumber(life), written
  end
  pin, format = plain(pin)
  if format then
    return -tonumber(format)
  end
  local version, claimed, owned, boot, node, rest =
    string.match(pin, '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]+)(.*)$')
  local ttl, ends = string.match(rest, '^|(%d*)|(%d*)|%d*|%d*|%x*$')
  local life = tonumber(ttl and ttl ~= '' and ttl or ARGV[1])
  if ends and ends ~= '' then
    life = math.min(life, tonumber(ends) - time())
  end
  if claimed == '0' then
    life = math.max(redis.call('PTTL', pin_key), tonumber(least) or 0)
  end
  if life <= 0 then
    redis.call('DEL', pin_key)
    return -1
  end
  local px = string.format('%.0f', life)
  local known, known_node = believed(said)
  local is_earlier = known and known_node ~= node
    and is_earlier(known, version, claimed, owned, ended_key, ARGV[1]) and not record(known_node)
  if not is_earlier and not (known and is_newer(known, version, owned)) then
    redis.call('PEXPIRE', pin_key, px)
    return life, said ~= '' and said ~= version .. '|' .. node and others or claimed == '0' and written
  end
  local new = is_earlier and next_version(KEYS[2], version) or known
  if known_node ~= node then
    local _
    _, boot = record(known_node)
    log_change(KEYS[1], ARGV[2], 'kind', 'rehomed', 'key', session,
      'node', known_node, 'from', node, 'version', new, 'reason', 'recovered', 'correlation_id', '')
  end
  owned = time_of(known)
  claimed = recovered(owned, claimed, string.match(rest, '(%x*)$'))
  redis.call('SET', pin_key, table.concat({ new, claimed, owned, boot, known_node }, '|') .. rest, 'PX', px)
  advance(KEYS[2], new)
  return life, is_earlier and others or claimed == '0' and written
end

for i = 1, (#KEYS - 3) / 2 do
  local life, list = touch(KEYS[2 * i + 2], KEYS[2 * i + 3], ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2])
  lives[i] = life
  if list then
    list[#list + 1] = i - 1
  end
end
return { lives, others, written }
