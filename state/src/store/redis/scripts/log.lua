-- Stands before each script that logs changes.

-- Without this entry, a log that was lost before its first change would look like a log without changes. One that no proxy reads
-- ends by itself; changes.lua prolongs it.
local function begin_log(key)
  if redis.call('EXISTS', key) == 0 then
    redis.call('XADD', key, '*', 'kind', 'begin')
    redis.call('PEXPIRE', key, 86400000)
  end
end

-- Adds a change to a shard's log, which has about so many entries at most.
local function log_change(key, kept, ...)
  begin_log(key)
  redis.call('XADD', key, 'MAXLEN', '~', kept, '*', ...)
end

