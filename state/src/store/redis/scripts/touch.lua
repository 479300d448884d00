-- Gives pins of one shard their full time again, but not beyond their sessions' ends.
--
-- KEYS the pins, as in resolve.lua
-- ARGV 1 the life in ms of a pin that has none of its own
-- Returns for each how long it lives from now on in ms, or -1 if it is not there.
--
-- Not a transaction: how long a pin lives is read from it.
local now
local lives = {}
for i = 1, #KEYS do
  local pin = redis.call('GET', KEYS[i])
  if pin then
    local ttl, ends = string.match(pin, '^%d+|%d+|%d+|[^|]*|[^|]+|(%d*)|(%d*)|%d*|%d*|%x*$')
    local life = tonumber(ttl and ttl ~= '' and ttl or ARGV[1])
    if ends and ends ~= '' then
      if not now then
        local t = redis.call('TIME')
        now = t[1] * 1000 + math.floor(t[2] / 1000)
      end
      life = math.min(life, tonumber(ends) - now)
    end
    if life > 0 then
      redis.call('PEXPIRE', KEYS[i], string.format('%.0f', life))
      lives[i] = life
    else
      redis.call('DEL', KEYS[i])
      lives[i] = -1
    end
  else
    lives[i] = -1
  end
end
return lives
