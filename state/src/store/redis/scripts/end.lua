-- Ends one session, unless its pin is newer than the end, remembers its version for a while, and logs the change.
--
-- KEYS 1 the session's pin   2 its ended version   3 the shard's changes
-- ARGV 1 how long the version is remembered, in ms   2 changes to keep   3 session key   4 correlation id or ""
--      5 how long ago the session ended, in ms
-- Returns 1, or 0 if there was no pin, or its node has had it for less time than that.
--
-- Not a transaction: what is written depends on the pin that is read.
local pin = redis.call('GET', KEYS[1])
if not pin then
  return 0
end
local version, owned, node = string.match(pin, '^(%d+)|%d+|(%d+)|[^|]*|([^|]+)')
local ago = tonumber(ARGV[5])
if ago > 0 then
  local t = redis.call('TIME')
  if t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(owned) < ago then
    return 0
  end
end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], version, 'PX', ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'kind', 'ended', 'key', ARGV[3], 'node', node,
  'version', version, 'reason', 'deleted', 'correlation_id', ARGV[4])
return 1
