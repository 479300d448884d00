-- Whether this shard takes the writes that resolve.lua makes: writes one key that ends by itself.
--
-- KEYS 1 a key of the shard that nothing reads
-- ARGV 1 its life in ms
-- Returns OK, or why not: that the server is too old, or that the user may not use a command.
--
-- Not a plain SET: a user may be allowed that and no scripts, or not what is in them. Only the commands' names are looked at, as
-- the keys of the shard share the pattern of KEYS 1. REDIS_VERSION_NUM came with Redis 7, as did entries-added of XINFO, which
-- changes.lua needs.
if not redis.REDIS_VERSION_NUM then
  return redis.error_reply('TOOOLD this server is older than Redis 7, whose streams say how many entries were added')
end
local needed = { { 'GET', KEYS[1] }, { 'HGET', KEYS[1], 'f' }, { 'HSET', KEYS[1], 'f', 'v' }, { 'PEXPIRE', KEYS[1], '1' },
  { 'DEL', KEYS[1] }, { 'EXISTS', KEYS[1] }, { 'TIME' }, { 'XADD', KEYS[1], '*', 'f', 'v' }, { 'XRANGE', KEYS[1], '-', '+' },
  { 'XINFO', 'STREAM', KEYS[1] } }
for _, command in ipairs(needed) do
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then
    return redis.error_reply('NOPERM this user has no permissions to run the \'' .. string.lower(command[1]) .. '\' command')
  end
end
return redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
