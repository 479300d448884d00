-- Finds, claims, inherits or rehomes one session: the rules of store/placing.rs and store/claims.rs, in one atomic step with
-- its change event.
--
-- KEYS 1 the session's pin   string "version|claimed|owned|boot id|node", times in ms; if anything is known of them, then also
--                            "|idle time|end|creation|session version|former key", each of which may be empty
--      2 its ended version   string, there only for a while after a session was ended
--      3 the shard's nodes   hash, node -> "version|state|cooldown until|boot id"
--      4 the shard's changes  stream; begun by the first claim, so that a position in it tells of each pin's log
-- ARGV 1 the pin's life in ms, unless it has one of its own   2 "panic", "strict" or ""   3 changes to keep
--      4 session key for the event     5 correlation id or ""
--      6 what is said: "idle time|end|creation|session version|life of a claim", each of which may be empty
--      7 the pin of the former key: "key|version|session version|boot id|node", or ""
--      8 number of candidates n        9 .. 8+n candidates       then the unusable nodes
-- Returns "outcome|version|restore|from|life|session version|owned for|node": outcome f, c or r; restore 0 or 1; life in ms,
-- 0 if nothing was stored as the session has ended; how long the node has had the session, in ms; from and session version
-- may be empty.
--
-- Not a transaction: MULTI cannot look at the pin before it decides. WATCH could, at two more round trips and a retry
-- for each race, and races are what a death brings.
--
-- The pin of the former key may be in another slot, so it was read before. Whatever became of it since: the node that it
-- names is checked here like any other.
local panic, strict = ARGV[2] == 'panic', ARGV[2] == 'strict'
local last_candidate = 8 + tonumber(ARGV[8])
local said_ttl, said_ends, said_created, said_version, said_claim =
  string.match(ARGV[6], '^(%d*)|(%d*)|(%d*)|(%d*)|(%d*)$')
local former_key, former_version, former_seen, former_boot, former_node =
  string.match(ARGV[7], '^(%x+)|(%d+)|(%d*)|([^|]*)|(.+)$')

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

-- Why a pin may not stay on a node, and the node's boot id.
local function out(node)
  local _, cooling, boot = record(node)
  local reason
  if not panic then
    if unusable(node) then
      reason = 'unusable'
    elseif cooling then
      reason = 'cooldown'
    end
  end
  return reason, boot
end

-- The first candidate but `owner` that takes new sessions, else the first that is not down.
local function fit(owner)
  local second, second_boot
  for i = 9, last_candidate do
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

-- Where a session goes that may not stay on its node `home`, if there is such a place, and that node's boot id: the former
-- key's node if it is another and a pin may stay there, else a candidate.
local function elsewhere(home)
  if former_node and former_node ~= home then
    local reason, boot = out(former_node)
    if not reason then
      return former_node, boot
    end
  end
  return fit(home)
end

local function higher(one, other)
  if other and (tonumber(other) or 0) > (tonumber(one) or 0) then
    return other
  end
  return one
end

-- What is known of the session.
local pin = redis.call('GET', KEYS[1])
local version, claimed, owned, known_boot, owner, rest
local ttl, ends, created, known_seen, alias
if pin then
  version, claimed, owned, known_boot, owner, rest =
    string.match(pin, '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]+)(.*)$')
  ttl, ends, created, known_seen, alias = string.match(rest, '^|(%d*)|(%d*)|(%d*)|(%d*)|(%x*)$')
end
if not ttl then
  ttl, ends, created, known_seen, alias = '', '', '', '', ''
end
if said_ttl ~= '' then
  ttl = said_ttl
end
if said_ends ~= '' and (ends == '' or tonumber(said_ends) < tonumber(ends)) then
  ends = said_ends
end
if said_created ~= '' then
  created = said_created
end
local seen = higher(higher(known_seen, said_version), former_seen)

local life = ttl ~= '' and ttl or ARGV[1]
if ends ~= '' then
  life = string.format('%.0f', math.max(0, math.min(tonumber(life), tonumber(ends) - time())))
end

-- Stores the pin, but not beyond its session's end.
local function keep(version, claimed, owned, boot, node)
  local text = version .. '|' .. claimed .. '|' .. owned .. '|' .. boot .. '|' .. node
  if ttl ~= '' or ends ~= '' or created ~= '' or seen ~= '' or alias ~= '' then
    text = text .. '|' .. ttl .. '|' .. ends .. '|' .. created .. '|' .. seen .. '|' .. alias
  end
  if life == '0' then
    redis.call('DEL', KEYS[1])
  elseif text == pin then
    redis.call('PEXPIRE', KEYS[1], life)
  else
    redis.call('SET', KEYS[1], text, 'PX', life)
  end
end

local function answer(outcome, version, restore, from, since, node)
  local owned = string.format('%.0f', math.max(0, time() - tonumber(since)))
  return table.concat({ outcome, version, restore, from, life, seen, owned, node }, '|')
end

-- A node that was restarted since the pin met it. The pin learns the boot id that it has now, so this is said once.
local function met(known, boot)
  if boot == '' or boot == known then
    return '0', known
  end
  return known == '' and '0' or '1', boot
end

local function log_rehome(from, node, version, reason)
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'rehomed', 'key', ARGV[4], 'node', node,
    'from', from, 'version', version, 'reason', reason, 'correlation_id', ARGV[5])
end

if not pin then
  local outcome, restore, from, node, boot, reason = 'c', '0', '', nil, nil, nil
  local next_version = 1
  local ended = redis.call('GET', KEYS[2])
  if ended then
    next_version = tonumber(ended) + 1
  end
  if former_node then
    -- As if the former key's pin were its own.
    outcome, alias, node = 'f', former_key, former_node
    next_version = math.max(next_version, tonumber(former_version))
    reason, boot = out(former_node)
    local other, other_boot
    if reason and not strict then
      other, other_boot = fit(former_node)
    end
    if other then
      outcome, from, node, boot = 'r', former_node, other, other_boot
      next_version = next_version + 1
    else
      restore, boot = met(former_boot, boot)
    end
  else
    if said_claim ~= '' and tonumber(said_claim) < tonumber(life) then
      life = said_claim
    end
    if not panic then
      node, boot = fit(nil)
    end
    if not node then
      node = ARGV[9]
      local _
      _, _, boot = record(node)
    end
  end
  version = string.format('%.0f', next_version)
  if ended and life ~= '0' then
    redis.call('DEL', KEYS[2])
  end
  local at = string.format('%.0f', time())
  keep(version, at, at, boot, node)
  -- Without this entry, a log that was lost before its first change would look like a log without changes.
  if redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('XADD', KEYS[4], '*', 'kind', 'begin')
  end
  if outcome == 'r' then
    log_rehome(from, node, version, reason)
  end
  return answer(outcome, version, restore, from, at, node)
end

local reason, boot = out(owner)
if reason and not strict then
  local node, node_boot = elsewhere(owner)
  if node then
    if node == former_node then
      alias = former_key
    end
    version = string.format('%.0f', tonumber(version) + 1)
    local at = string.format('%.0f', time())
    keep(version, claimed, at, node_boot, node)
    log_rehome(owner, node, version, reason)
    return answer('r', version, '0', owner, at, node)
  end
end

local restore
restore, known_boot = met(known_boot, boot)
keep(version, claimed, owned, known_boot, owner)
if seen ~= known_seen then
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'superseded', 'key', ARGV[4], 'node', owner,
    'version', version, 'reason', 'raised', 'session_version', seen, 'correlation_id', ARGV[5])
end
return answer('f', version, restore, '', owned, owner)
