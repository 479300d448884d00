-- Writes a node's record in the pool's first shard, if it is unchanged since it was read, and logs the change.
--
-- KEYS 1 the pool's records   hash, node -> JSON; only in shard 0
--      2 shard 0's nodes      hash, node -> "version|state|cooldown until|boot id", what resolve.lua reads
--      3 shard 0's changes
-- ARGV 1 node   2 the record that was read, as JSON, or ""   3 the new one   4 the same for KEYS 2
--      5 the new version   6 the reason   7 correlation id or ""   8 changes to keep
-- Returns 1, or 0 if the record is another by now: read again.
--
-- Not a transaction: the comparison decides whether to write. What the new record is, is decided in core.
local now = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if now ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
-- As long as no proxy asks: changes.lua prolongs it.
redis.call('PEXPIRE', KEYS[1], 2678400000)
redis.call('PEXPIRE', KEYS[2], 2678400000)
log_change(KEYS[3], ARGV[8], 'kind', 'node', 'node', ARGV[1], 'version', ARGV[5],
  'reason', ARGV[6], 'correlation_id', ARGV[7], 'record', ARGV[3])
return 1
