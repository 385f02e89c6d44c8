"""What Redis does in one step for a stream: read what it knows of entities, and write them unless it has changed."""

from parity.online.scripts import PUT

# KEYS: entities. ARGV: the names of fields. Returns those of each key, one after the other; 0 for all of a key that
# holds something else than a hash.
READ = """
local found, fields = {}, #ARGV
for i, key in ipairs(KEYS) do
  local values = redis.pcall('HMGET', key, unpack(ARGV))
  for field = 1, fields do
    found[(i - 1) * fields + field] = values.err and 0 or values[field]
  end
end
return found
"""

# KEYS: entities. ARGV: the names of the fields of what is applied and of the event timestamp; 1 if there may be a row
# of which nothing is applied yet, or 0; seconds to live, or 0; the numbers of fields to write and to remove; the names
# of both; then for each entity what is applied, as last seen or empty, and its fields. Returns the places of the keys,
# from 1, that have changed since, and were left alone.
WRITE_APPLIED = (
    PUT
    + """
local seconds, fields, refused, row = tonumber(ARGV[4]), tonumber(ARGV[5]), {}, {}
local removed, start = tonumber(ARGV[6]), 6 + fields + tonumber(ARGV[6])
for field = 1, fields do
  row[2 * field - 1] = ARGV[6 + field]
end
for i, key in ipairs(KEYS) do
  local at = start + (fields + 1) * (i - 1) + 1
  local stored = redis.pcall('HGET', key, ARGV[1])
  if type(stored) == 'table' or (stored or '') ~= ARGV[at]
      or (not stored and ARGV[3] == '0' and redis.call('HEXISTS', key, ARGV[2]) == 1) then
    refused[#refused + 1] = i
  else
    for field = 1, fields do
      row[2 * field] = ARGV[at + field]
    end
    put(key, row, 1, seconds)
    for field = 1, removed do
      redis.call('HDEL', key, ARGV[6 + fields + field])
    end
  end
end
return refused
"""
)
