-- Stands before each script that compares or gives out versions, as versions.rs has them.
local now, micros
local function time()
  if not now then
    local t = redis.call('TIME')
    now, micros = t[1] * 1000 + math.floor(t[2] / 1000), t[1] * 1000000 + t[2]
  end
  return now
end

-- Each is a time in microseconds; all are exact up to 2^53. What the clock says is kept until the time has passed it, and for two
-- hours more, by which servers may differ.
local AHEAD, KEPT = 86400000000, 7200000
local function keep_clock(key, version)
  local ahead = math.max(0, math.floor((tonumber(version) - micros) / 1000))
  redis.call('SET', key, version, 'PX', string.format('%.0f', KEPT + ahead))
end

-- The version that follows the latest of the shard and all that are known, each of which may be nil or false.
local function next_version(key, one, two)
  time()
  local version = math.max(micros, (tonumber(redis.call('GET', key)) or 0) + 1,
    (tonumber(one) or 0) + 1, (tonumber(two) or 0) + 1)
  local text = string.format('%.0f', version)
  keep_clock(key, text)
  return text
end

-- What is given out from now on is newer than what a proxy knows.
local function advance(key, version)
  time()
  if tonumber(version) > (tonumber(redis.call('GET', key)) or 0) then
    keep_clock(key, version)
  end
end

-- When the node got the session, by the version; one that is no time counts as long ago. What was before it is not one of the marks
-- that resolve.lua has.
local function time_of(version)
  return string.format('%.0f', math.max(3, math.min(time(), math.floor(tonumber(version) / 1000))))
end

-- When the session was claimed, of one that its node got later: by a rehome, or as far as a proxy knows. Only of a claim both are the
-- same time.
local function claimed_before(owned, claimed)
  return string.format('%.0f', math.min(tonumber(claimed or owned), tonumber(owned) - 1))
end

-- The same of a pin that was lost behind another one: what it had inherited was lost with it, unless that is known.
local function recovered(owned, claimed, alias)
  if alias == '' and claimed ~= '0' then
    return '1'
  end
  return claimed_before(owned, claimed)
end

-- The pin as a proxy knows it, "version|node", unless that is from another clock.
local function believed(text)
  local version, node = string.match(text, '^(%d+)|(.+)$')
  if version then
    time()
    if tonumber(version) < micros + AHEAD then
      return version, node
    end
  end
end

-- Whether a pin is of before the session's end, if that is remembered: a version, before it a blank if there was no pin, and behind it
-- one if the session has begun again.
local function is_over(version, ended)
  return ended and tonumber(version) <= (tonumber(ended) or 0)
end

-- Of two pins of a session the newer one stays: who knows it knows a write that was lost here. A service of before counts versions
-- from 1: of its pins the later one stays.
local function is_newer(known, version, owned)
  return tonumber(known) > tonumber(version)
    and (tonumber(version) > 1099511627776 or tonumber(owned) < tonumber(known) / 1000)
end

-- But of two claims the earlier one stays: the later one was made since the store had lost the earlier one, and its node began
-- without the session's state. Unless the session ended in between, or the later claim is older than a touch interval, and what a touch
-- may be late.
local function is_earlier(known, version, claimed, owned, ended_key, ttl)
  local contested = math.min(60000, tonumber(ttl) / 4) + 20000
  if tonumber(known) >= tonumber(version) or claimed ~= owned or time() - tonumber(owned) > contested then
    return false
  end
  return not is_over(known, redis.call('GET', ended_key))
end
