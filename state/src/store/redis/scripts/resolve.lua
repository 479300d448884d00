-- Finds, claims, inherits or rehomes one session: the rules of store/placing.rs and store/claims.rs, in one atomic step with
-- its change event.
--
-- KEYS 1 the session's pin   string "version|claimed|owned|boot id|node", times in ms; if anything is known of them, then also
--                            "|idle time|end|creation|session version|former key", each of which may be empty. Of a claim claimed
--                            and owned are the same. Of a lost pin that was written again claimed is 0 until a request has come,
--                            and then 1 until one has said a former key
--      2 its ended version   string, there only for a while after a session was ended; versions.lua has its marks
--      3 the shard's nodes   hash, node -> "version|state|cooldown until|boot id"
--      4 the shard's changes  stream; begun by the first claim, so that a position in it tells of each pin's log
--      5 the latest version that a session of the shard was given
-- ARGV 1 the pin's life in ms, unless it has one of its own   2 "panic", "strict" or ""   3 changes to keep
--      4 session key for the event     5 correlation id or ""
--      6 what is said: "idle time|end|creation|session version|life of a claim|former key", each of which may be empty
--      7 the pin of the former key: "key|version|session version|boot id|node", or ""
--      8 the pin as the asking proxy knows it: "version|node", or ""     9 of "r" if the question only renews it, "f" if nothing may begin
--      10 number of candidates n       11 .. 10+n candidates     then the unusable nodes
-- Returns "outcome|version|restore|from|life|session version|owned for|node": outcome f, c or r; restore 0 or 1; life in ms,
-- 0 if nothing was stored as the session has ended; how long the node has had the session, in ms; from and session version
-- may be empty. A session that may not begin has version and life 0.
--
-- Not a transaction: MULTI cannot look at the pin before it decides. WATCH could, at two more round trips and a retry
-- for each race, and races are what a death brings.
--
-- The pin of the former key may be in another slot, so it was read before. Whatever became of it since: the node that it
-- names is checked here like any other.
local panic, strict = ARGV[2] == 'panic', ARGV[2] == 'strict'
local last_candidate = 10 + tonumber(ARGV[10])
local said_ttl, said_ends, said_created, said_version, said_claim, said_former =
  string.match(ARGV[6], '^(%d*)|(%d*)|(%d*)|(%d*)|(%d*)|(%x*)$')
local former_key, former_version, former_seen, former_boot, former_node =
  string.match(ARGV[7], '^(%x+)|(%d+)|(%d*)|([^|]*)|(.+)$')
local told_version, told_node = believed(ARGV[8])

local function record(node)
  local text = redis.call('HGET', KEYS[3], node)
  if not text then
    return 'active', false, ''
  end
  local state, cooldown, boot = string.match(readable(text, KEYS[3]), '^%d+|(%a+)|(%d+)|(.*)$')
  if not state then
    -- Not ours; the next copy of the node's record replaces it.
    return 'active', false, ''
  end
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
  for i = 11, last_candidate do
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
-- Written again since it was lost, or now: of what was said of the session beside its node nothing is known.
local is_partly_known = false
if pin then
  pin = readable(pin, KEYS[1])
  version, claimed, owned, known_boot, owner, rest =
    string.match(pin, '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]+)(.*)$')
  ttl, ends, created, known_seen, alias = string.match(rest, '^|(%d*)|(%d*)|(%d*)|(%d*)|(%x*)$')
  if claimed == '0' then
    -- Written again by a touch: now the rest is said.
    is_partly_known, claimed = true, '1'
  end
end
if not ttl then
  ttl, ends, created, known_seen, alias = '', '', '', '', ''
end
local ttl_before, ends_before = ttl, ends
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

local function life_of(ttl, ends)
  local life = ttl ~= '' and ttl or ARGV[1]
  if ends ~= '' then
    life = string.format('%.0f', math.max(0, math.min(tonumber(life), tonumber(ends) - time())))
  end
  return life
end
local life = life_of(ttl, ends)
local is_shorter = pin and not is_partly_known and (ttl ~= ttl_before or ends ~= ends_before)
  and tonumber(life) < tonumber(life_of(ttl_before, ends_before))

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

local function log_rehome(from, node, version, reason, correlation)
  log_change(KEYS[4], ARGV[3], 'kind', 'rehomed', 'key', ARGV[4], 'node', node,
    'from', from, 'version', version, 'reason', reason, 'correlation_id', correlation)
end

if pin and told_version then
  local is_earlier = told_node ~= owner and is_earlier(told_version, version, claimed, owned, KEYS[2], ARGV[1])
  if is_newer(told_version, version, owned) or is_earlier and not out(told_node) then
    -- A version has one node: the one that it had is another by now if the claim was seen.
    local new = is_earlier and next_version(KEYS[5], version) or told_version
    if told_node ~= owner then
      log_rehome(owner, told_node, new, 'recovered', '')
      owner, known_boot = told_node, ''
    end
    version, owned = new, time_of(told_version)
    claimed = recovered(owned, claimed, alias)
    advance(KEYS[5], version)
  end
end

local ended
if not pin then
  ended = redis.call('GET', KEYS[2])
  local is_over_here = told_version and is_over(told_version, ended)
    or not told_version and ended and not string.find(ended, ' $')
  if is_over_here and string.find(ARGV[9], 'r') then
    -- It is over: nothing is begun. Where only the ring has put it, no version is known.
    local over = told_version or '0'
    local owned = string.format('%.0f', math.max(0, time() - tonumber(time_of(over))))
    return table.concat({ 'f', over, '0', '', '0', said_version, owned, told_node or ARGV[11] }, '|')
  end
  if told_version and is_over(told_version, ended) then
    -- What is known is of its former life.
    told_version, told_node = nil, nil
  end
  if former_version and is_over(former_version, ended) and string.find(ended, '^ ') then
    -- So is the pin of its former key: that it had one was lost with its own pin, or it would have ended too.
    former_key, former_version, former_seen, former_boot, former_node = nil, nil, nil, nil, nil
    seen = higher(known_seen, said_version)
  end
  if told_version then
    -- The whole pin was lost. It is as if it were there: who knows it has nothing to learn.
    pin, version, owner, known_boot = '', told_version, told_node, ''
    owned = time_of(told_version)
    claimed, is_partly_known, known_seen = '1', true, seen
    advance(KEYS[5], version)
    begin_log(KEYS[4])
  end
end

if pin and claimed == '1' and said_former ~= '' then
  -- What it had inherited was lost with it.
  alias, claimed = said_former, claimed_before(owned)
end

if not pin and not former_node and string.find(ARGV[9], 'f') then
  -- It goes where it would begin, and nothing is stored. Without a version: who knows one could begin it.
  local node = not panic and fit(nil) or ARGV[11]
  return table.concat({ 'f', '0', '0', '', '0', said_version, '0', node }, '|')
end

if not pin then
  local outcome, restore, from, node, boot, reason = 'c', '0', '', nil, nil, nil
  if former_node then
    -- As if the former key's pin were its own.
    outcome, alias, node = 'f', former_key, former_node
    reason, boot = out(former_node)
    local other, other_boot
    if reason and not strict then
      other, other_boot = fit(former_node)
    end
    if other then
      outcome, from, node, boot = 'r', former_node, other, other_boot
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
      node = ARGV[11]
      local _
      _, _, boot = record(node)
    end
  end
  local at = string.format('%.0f', time())
  version = next_version(KEYS[5], ended, former_version)
  keep(version, outcome == 'c' and at or claimed_before(at), at, boot, node)
  if ended and life ~= '0' then
    redis.call('SET', KEYS[2], string.match(ended, '^ ?') .. string.format('%.0f ', tonumber(ended) or 0), 'KEEPTTL')
  end
  begin_log(KEYS[4])
  if outcome == 'r' then
    log_rehome(from, node, version, reason, ARGV[5])
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
    version = next_version(KEYS[5], version)
    local at = string.format('%.0f', time())
    keep(version, claimed_before(at, claimed), at, node_boot, node)
    log_rehome(owner, node, version, reason, ARGV[5])
    return answer('r', version, '0', owner, at, node)
  end
end

local restore
restore, known_boot = met(known_boot, boot)
keep(version, claimed, owned, known_boot, owner)
if seen ~= known_seen then
  log_change(KEYS[4], ARGV[3], 'kind', 'superseded', 'key', ARGV[4], 'node', owner,
    'version', version, 'reason', 'raised', 'session_version', seen, 'correlation_id', ARGV[5])
elseif is_shorter then
  log_change(KEYS[4], ARGV[3], 'kind', 'superseded', 'key', ARGV[4], 'node', owner,
    'version', version, 'reason', 'shortened', 'correlation_id', ARGV[5])
end
return answer('f', version, restore, '', owned, owner)
