-- Lets the pin of a former key learn a higher session version, and logs the change. That is no use of it: its life stays.
--
-- KEYS 1 the pin, as in resolve.lua   2 the shard's changes
-- ARGV 1 the session version   2 changes to keep   3 session key   4 correlation id or ""
-- Returns 1, or 0 if there is no pin, or it knows this version or a higher one.
--
-- Not a transaction: what is written depends on the pin that is read.
local pin = redis.call('GET', KEYS[1])
if not pin then
  return 0
end
local head, version, node, rest = string.match(readable(pin, KEYS[1]), '^((%d+)|%d+|%d+|[^|]*|([^|]+))(.*)$')
local before, seen, after = string.match(rest, '^(|%d*|%d*|%d*|)(%d*)(|%x*)$')
if not before then
  before, seen, after = '||||', '', '|'
end
if (tonumber(seen) or 0) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], head .. before .. ARGV[1] .. after, 'KEEPTTL')
log_change(KEYS[2], ARGV[2], 'kind', 'superseded', 'key', ARGV[3], 'node', node,
  'version', version, 'reason', 'rotated', 'session_version', ARGV[1], 'correlation_id', ARGV[4])
return 1
