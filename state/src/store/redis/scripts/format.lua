-- Stands before each script that reads pins or copies of nodes' records: format.rs says what their formats are.
local FORMAT = 1

-- The text without its mark; of a newer format nothing, and the format.
local function plain(text)
  local format, rest = string.match(text, '^f(%d+)|(.*)$')
  if not format then
    return text
  elseif tonumber(format) > FORMAT then
    return nil, format
  end
  return rest
end

-- The same, but a newer format ends the script. Before it has written anything of that key.
local function readable(text, key)
  local known, format = plain(text)
  if not known then
    error({ err = 'FORMAT ' .. format .. ' ' .. key })
  end
  return known
end

