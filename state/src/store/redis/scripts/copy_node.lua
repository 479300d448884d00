-- Copies what resolve.lua needs of a node's record into one more shard, unless one is there that is as new.
--
-- KEYS 1 the shard's nodes   hash, node -> "version|state|cooldown until|boot id", and "node|written" -> when that was changed,
--                            in ms; services of old do not write that
-- ARGV 1 node   2 version   3 the text   4 when it was changed
-- Returns 1 if it was written.
--
-- Not a transaction: copies of two changes may arrive in any order, and the older one must not win. What is newer is said as
-- proxies say it: a shard 0 that lost its records counts from 1 again, so what was changed later counts whatever its version.
local there = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[1] .. '|written')
if there[1] then
  local version, written = tonumber(string.match(readable(there[1], KEYS[1]), '^%d+')), tonumber(there[2] or 0)
  if version and tonumber(ARGV[2]) <= version and tonumber(ARGV[4]) <= written then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3], ARGV[1] .. '|written', ARGV[4])
-- As long as no proxy asks: changes.lua prolongs it.
redis.call('PEXPIRE', KEYS[1], 2678400000)
return 1
