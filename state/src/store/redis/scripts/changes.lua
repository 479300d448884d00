-- Reads one shard's changes after a position, if the log is still the one that the position is of.
--
-- KEYS 1 the shard's changes   stream   2 .. what else of the shard lives as long as proxies ask: hashes of nodes
-- ARGV 1 the position of an entry, or 0-0   2 the most entries to read, that one and the log's first among them
--      3 the life of a log that no proxy reads, in ms   4 that of the hashes
-- Returns {1 if something is missing between the position and the entries, entries as XRANGE has them}.
--
-- Not a transaction: the answers to its commands must be of one moment.
for i, key in ipairs(KEYS) do
  local life, left = tonumber(i == 1 and ARGV[3] or ARGV[4]), redis.call('PTTL', key)
  if left == -1 or left >= 0 and left < life / 2 then
    -- A server that takes no writes now is read all the same.
    redis.pcall('PEXPIRE', key, life)
  end
end
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
if ARGV[1] ~= '0-0' then
  -- Each position that was ever given out is that of an entry. One that is not there was dropped, or lost with its log.
  if not entries[1] or entries[1][1] ~= ARGV[1] then
    return {1, {}}
  end
  table.remove(entries, 1)
elseif entries[1] then
  local about = redis.call('XINFO', 'STREAM', KEYS[1])
  local fields = {}
  for i = 1, #about, 2 do
    fields[about[i]] = about[i + 1]
  end
  if fields['entries-added'] > fields['length'] then
    return {1, {}}
  end
end
return {0, entries}
