-- Reads one shard's changes after a position, and enough to tell whether some are missing before them.
--
-- KEYS 1 the shard's changes   stream
-- ARGV 1 the position   2 the most events to return
-- Returns {newest position, oldest position kept, 1 if any were ever dropped, events as XRANGE has them}.
--
-- Not a transaction: the answers to its commands must be of one moment.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return {'0-0', '0-0', 0, {}}
end
local about = redis.call('XINFO', 'STREAM', KEYS[1])
local fields = {}
for i = 1, #about, 2 do
  fields[about[i]] = about[i + 1]
end
local first = fields['first-entry']
local dropped = fields['entries-added'] > fields['length'] and 1 or 0
return {fields['last-generated-id'], first and first[1] or '0-0', dropped,
  redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', ARGV[2])}
