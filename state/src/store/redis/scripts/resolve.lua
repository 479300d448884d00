-- Finds, claims or rehomes one session: the rule of store/placing.rs, in one atomic step with its change event.
--
-- KEYS 1 the session's pin   string "version|claimed|owned|boot id|node", times in ms
--      2 its ended version   string, there only for a while after a session was ended
--      3 the shard's nodes   hash, node -> "version|state|cooldown until|boot id"
--      4 the shard's changes  stream; begun by the first claim, so that a position in it tells of each pin's log
-- ARGV 1 the pin's life in ms          2 "1" in panic           3 changes to keep
--      4 session key for the event     5 correlation id or ""
--      6 number of candidates n        7 .. 6+n candidates       then the unusable nodes
-- Returns "outcome|version|restore|from|node": outcome f, c or r; restore 0 or 1; from may be empty.
--
-- Not a transaction: MULTI cannot look at the pin before it decides. WATCH could, at two more round trips and a retry
-- for each race, and races are what a death brings.
local life, panic = ARGV[1], ARGV[2] == '1'
local last_candidate = 6 + tonumber(ARGV[6])

local now
local function time()
  if not now then
    local t = redis.call('TIME')
    now = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return now
end

local function record(node)
  local text = redis.call('HGET', KEYS[3], node)
  if not text then
    return 'active', false, ''
  end
  local state, cooldown, boot = string.match(text, '^%d+|(%a+)|(%d+)|(.*)$')
  cooldown = tonumber(cooldown)
  return state, cooldown > 0 and cooldown > time(), boot
end

local function unusable(node)
  for i = last_candidate + 1, #ARGV do
    if ARGV[i] == node then
      return true
    end
  end
  return false
end

-- The first candidate but `owner` that takes new sessions, else the first that is not down.
local function fit(owner)
  local second, second_boot
  for i = 7, last_candidate do
    local node = ARGV[i]
    if node ~= owner and not unusable(node) then
      local state, cooling, boot = record(node)
      if not cooling then
        if state == 'active' then
          return node, boot
        elseif not second then
          second, second_boot = node, boot
        end
      end
    end
  end
  return second, second_boot
end

local pin = redis.call('GET', KEYS[1])
if not pin then
  local node, boot
  if not panic then
    node, boot = fit(nil)
  end
  if not node then
    node = ARGV[7]
    local _
    _, _, boot = record(node)
  end
  local version = 1
  local ended = redis.call('GET', KEYS[2])
  if ended then
    version = tonumber(ended) + 1
    redis.call('DEL', KEYS[2])
  end
  local at = string.format('%.0f', time())
  redis.call('SET', KEYS[1], version .. '|' .. at .. '|' .. at .. '|' .. boot .. '|' .. node, 'PX', life)
  -- Nobody could tell a log that was lost before its first change from one that still has none.
  if redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('XADD', KEYS[4], '*', 'kind', 'begin')
  end
  return 'c|' .. version .. '|0||' .. node
end

local version, claimed, owned, known_boot, owner = string.match(pin, '^(%d+)|(%d+)|(%d+)|([^|]*)|(.+)$')
local _, cooling, boot = record(owner)
local reason
if not panic then
  if unusable(owner) then
    reason = 'unusable'
  elseif cooling then
    reason = 'cooldown'
  end
end
if reason then
  local node, node_boot = fit(owner)
  if node then
    version = string.format('%.0f', tonumber(version) + 1)
    local at = string.format('%.0f', time())
    redis.call('SET', KEYS[1], version .. '|' .. claimed .. '|' .. at .. '|' .. node_boot .. '|' .. node, 'PX', life)
    redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'rehomed', 'key', ARGV[4], 'node', node,
      'from', owner, 'version', version, 'reason', reason, 'correlation_id', ARGV[5])
    return 'r|' .. version .. '|0|' .. owner .. '|' .. node
  end
end

-- Found. The pin learns the boot id that its owner has now, so `restore` is said once.
local restore = '0'
if boot ~= '' and boot ~= known_boot then
  if known_boot ~= '' then
    restore = '1'
  end
  redis.call('SET', KEYS[1], version .. '|' .. claimed .. '|' .. owned .. '|' .. boot .. '|' .. owner, 'PX', life)
else
  redis.call('PEXPIRE', KEYS[1], life)
end
return 'f|' .. version .. '|' .. restore .. '||' .. owner
