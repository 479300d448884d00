-- Copies what resolve.lua needs of a node's record into one more shard, unless a newer one is there.
--
-- KEYS 1 the shard's nodes   hash, node -> "version|state|cooldown until|boot id"
-- ARGV 1 node   2 version   3 the text
-- Returns 1 if it was written.
--
-- Not a transaction: copies of two changes may arrive in any order, and the older one must not win.
local there = redis.call('HGET', KEYS[1], ARGV[1])
if there and tonumber(string.match(there, '^%d+')) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
