-- Drops a node's record, or the copy of it in one shard, if it still has the text that is no longer needed.
--
-- KEYS 1 a hash, node -> text
-- ARGV 1 node   2 the text
-- Returns 1 if it was dropped.
--
-- Not a transaction: what somebody wrote since must stay.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1], ARGV[1] .. '|written')
return 1
