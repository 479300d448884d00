-- Ends one session, remembers its version for a while, and logs the change.
--
-- KEYS 1 the session's pin   2 its ended version   3 the shard's changes
-- ARGV 1 how long the version is remembered, in ms   2 changes to keep   3 session key   4 correlation id or ""
-- Returns 1, or 0 if there was no pin.
--
-- Not a transaction: what is written depends on the pin that is read.
local pin = redis.call('GET', KEYS[1])
if not pin then
  return 0
end
local version, node = string.match(pin, '^(%d+)|%d+|%d+|[^|]*|([^|]+)')
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], version, 'PX', ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'kind', 'ended', 'key', ARGV[3], 'node', node,
  'version', version, 'reason', 'deleted', 'correlation_id', ARGV[4])
return 1
