-- Gives pins of one shard their full time again, but not beyond their sessions' ends, and compares what is said of them.
--
-- KEYS 1 the shard's changes   2 the latest version that a session of the shard was given   3 .. the pins, as in resolve.lua
-- ARGV 1 the life in ms of a pin that has none of its own   2 changes to keep
--      then for each pin: its session key, and the pin as the proxy knows it: "version|node", or ""
-- Returns for each how long it lives from now on in ms, -1 if it is not there, or minus its
-- format if that is newer; and the places, from 0 on, of those that are
-- others than was said.
--
-- Not a transaction: how long a pin lives is read from it, and of two versions the newer one stays.
local now, micros
local function time()
  if not now then
    local t = redis.call('TIME')
    now, micros = t[1] * 1000 + math.floor(t[2] / 1000), t[1] * 1000000 + t[2]
  end
  return now
end

-- As in resolve.lua.
local AHEAD, KEPT = 86400000000, 7200000

-- The pin as the proxy knows it, unless that is from another clock.
local function believed(text)
  local version, node = string.match(text, '^(%d+)|(.+)$')
  if version then
    time()
    if tonumber(version) < micros + AHEAD then
      return version, node
    end
  end
end

-- What is given out from now on is newer.
local function advance(version)
  if tonumber(version) > (tonumber(redis.call('GET', KEYS[2])) or 0) then
    local ahead = math.max(0, math.floor((tonumber(version) - micros) / 1000))
    redis.call('SET', KEYS[2], version, 'PX', string.format('%.0f', KEPT + ahead))
  end
end

local lives, others = {}, {}
for i = 1, #KEYS - 2 do
  local pin, text = redis.call('GET', KEYS[i + 2]), ARGV[2 * i + 2]
  local format
  lives[i] = -1
  if pin then
    pin, format = plain(pin)
  end
  if format then
    lives[i] = -tonumber(format)
  elseif pin then
    local version, claimed, owned, boot, node, rest =
      string.match(pin, '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]+)(.*)$')
    local ttl, ends = string.match(rest, '^|(%d*)|(%d*)|%d*|%d*|%x*$')
    local life = tonumber(ttl and ttl ~= '' and ttl or ARGV[1])
    if ends and ends ~= '' then
      life = math.min(life, tonumber(ends) - time())
    end
    if life > 0 then
      local px = string.format('%.0f', life)
      lives[i] = life
      local new_version, new_node
      if text ~= '' and text ~= version .. '|' .. node then
        new_version, new_node = believed(text)
        -- A service of before counts versions from 1: of its pins the later one stays.
        if not new_version or tonumber(new_version) <= tonumber(version)
          or tonumber(version) < 1099511627776 and tonumber(owned) >= tonumber(new_version) / 1000 then
          others[#others + 1] = i - 1
          new_version = nil
        end
      end
      if new_version then
        -- The proxy knows a write that was lost here.
        if new_node ~= node then
          boot = ''
          log_change(KEYS[1], ARGV[2], 'kind', 'rehomed', 'key', ARGV[2 * i + 1],
            'node', new_node, 'from', node, 'version', new_version, 'reason', 'recovered', 'correlation_id', '')
        end
        local since = string.format('%.0f', math.min(time(), math.floor(tonumber(new_version) / 1000)))
        redis.call('SET', KEYS[i + 2], table.concat({ new_version, claimed, since, boot, new_node }, '|') .. rest,
          'PX', px)
        advance(new_version)
      else
        redis.call('PEXPIRE', KEYS[i + 2], px)
      end
    else
      redis.call('DEL', KEYS[i + 2])
    end
  else
    local version = believed(text)
    if version then
      advance(version)
    end
  end
end
return { lives, others }
