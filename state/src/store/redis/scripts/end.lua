-- Ends one session, unless its pin is newer than the end, remembers the end for a while, and logs the change. Without a pin too: it
-- may have been lost, or not been claimed yet by proxies that served the session while the store was away.
--
-- KEYS 1 the session's pin   2 its ended version   3 the shard's changes   4 the latest version that a session of the shard was given
-- ARGV 1 how long the end is remembered at least, in ms; else as long as the pin would have lived, or any without a life of its own
--      2 changes to keep   3 session key   4 correlation id or ""
--      5 how long ago the session ended, in ms   6 the life in ms of a pin that has none of its own
-- Returns 1, or 0 if there was no pin, or its node has had it for less time than that.
--
-- Not a transaction: what is written depends on the pin that is read.
local pin = redis.call('GET', KEYS[1])
local ago, t = tonumber(ARGV[5]), redis.call('TIME')
local micros = t[1] * 1000000 + t[2]

-- Versions are times, so the end is later than all that the session had before, also those that were lost here.
local function remember(version, before, behind)
  local latest = ago == 0 and tonumber(redis.call('GET', KEYS[4])) or 0
  local ended = math.max(version, latest, micros - ago * 1000)
  local kept = math.max(tonumber(ARGV[1]), tonumber(ARGV[6]), redis.call('PTTL', KEYS[1]), redis.call('PTTL', KEYS[2]))
  local text = string.format('%.0f', ended)
  redis.call('SET', KEYS[2], before .. text .. behind, 'PX', string.format('%.0f', kept))
  return text
end

if not pin then
  local before = redis.call('GET', KEYS[2])
  local is_first = not before or string.find(before, ' $')
  -- A blank before it: there was no pin.
  local mark = (is_first or string.find(before, '^ ')) and ' ' or ''
  local ended = remember(before and tonumber(before) or 0, mark, '')
  -- One that is said again is no news, unless the session began again in between.
  if is_first then
    log_change(KEYS[3], ARGV[2], 'kind', 'ended', 'key', ARGV[3], 'version', ended, 'reason', 'deleted',
      'correlation_id', ARGV[4])
  end
  return 0
end
local version, claimed, owned, node = string.match(readable(pin, KEYS[1]), '^(%d+)|(%d+)|(%d+)|[^|]*|([^|]+)')
if ago > 0 and math.floor(micros / 1000) - tonumber(owned) < ago then
  -- The pin is a newer session's. What is known of the former one is over.
  local before = redis.call('GET', KEYS[2]) or ''
  remember(tonumber(before) or 0, string.match(before, '^ ?'), ' ')
  return 0
end
-- Of one that was written again since it was lost, the former key may not be known, as without a pin.
remember(tonumber(version), tonumber(claimed) < 2 and ' ' or '', '')
redis.call('DEL', KEYS[1])
log_change(KEYS[3], ARGV[2], 'kind', 'ended', 'key', ARGV[3], 'node', node,
  'version', version, 'reason', 'deleted', 'correlation_id', ARGV[4])
return 1
