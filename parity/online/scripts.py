"""What Redis itself does in one step: the scripts of the online store, each atomic for a key, and how they are sent."""

import hashlib
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

ARGUMENTS_PER_SCRIPT = 20_000
"""Redis does nothing else during a script. One of as many arguments takes less than a millisecond."""

# A stored timestamp is a protobuf Timestamp: seconds (field 1) and nanoseconds (field 2), as varints, zeros left out.
# Seconds before 1970 are a negative int64: ten bytes in two's complement, read here by their complement because a
# number in Lua is exact up to 2^53 only. Nanoseconds are truncated to microseconds, as everywhere. Bytes that are no
# timestamp are older than none, so a write mends them.
_READ_TIMESTAMP = """
local function varint(bytes, at)
  local value, complement, scale, length = 0, 0, 1, 0
  while true do
    local byte = string.byte(bytes, at + length)
    if not byte then return nil end
    length = length + 1
    value = value + (byte % 128) * scale
    complement = complement + (127 - byte % 128) * scale
    if byte < 128 then break end
    scale = scale * 128
    if length == 9 then
      return -(complement + 1), at + 10
    end
  end
  return value, at + length
end
local function timestamp(bytes)
  local seconds, nanos, at = 0, 0, 1
  while at <= #bytes do
    local tag, value = string.byte(bytes, at), nil
    value, at = varint(bytes, at + 1)
    if not value then return nil end
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value - value % 1000 else return nil end
  end
  return seconds, nanos
end
local function older(a, b)
  local a_seconds, a_nanos = timestamp(a)
  local b_seconds, b_nanos = timestamp(b)
  if not b_seconds then return false end
  return a_seconds < b_seconds or (a_seconds == b_seconds and a_nanos < b_nanos)
end
"""

# Lua passes on some 8,000 arguments at most, and a view may have more fields than half of that.
IN_PIECES = """
local function in_pieces(command, key, arguments, first)
  for start = first, #arguments, 4000 do
    redis.call(command, key, unpack(arguments, start, math.min(start + 3999, #arguments)))
  end
end
"""

# The fields and values of a row, from the place `first` on, in the key, which lives so many seconds more; 0 for ever.
PUT = (
    IN_PIECES
    + """
local function put(key, row, first, seconds)
  in_pieces('HSET', key, row, first)
  if seconds > 0 then
    redis.call('EXPIRE', key, seconds)
  end
end
"""
)

# Whether a row has events of a stream beyond the marks of the files: see `parity.online.marks`.
_IS_AHEAD = """
local known
local function offsets(text)
  local found = {}
  for partition, offset in string.gmatch(text, '(%S+)=(%d+)') do
    found[partition] = offset
  end
  return found
end
local function is_ahead(applied, marks)
  if not applied or marks == '*' then return false end
  known = known or offsets(marks)
  for partition, offset in pairs(offsets(applied)) do
    if not known[partition] or known[partition] < offset then return true end
  end
  return false
end
local function applied_of(timestamp)
  return '_applied:' .. string.sub(timestamp, 5)
end
"""

# Of two writes of one row of a continuous view, that counts whose end is the later one: what the other has follow it is
# older, even where it is of another horizon. See the header in `parity.online.steps`: version 2, the row's own instant
# from byte 13 on, the end from byte 29 on. An end in the future is another writer's, and shuts out nothing.
_ENDS_LATER = """
local function ends_later(stored, new, present)
  local is_read = stored and #stored >= 36 and string.byte(stored) == 2
  if not is_read or string.sub(stored, 13, 20) ~= string.sub(new, 13, 20) then
    return false
  end
  local stored_end, new_end = struct.unpack('<i8', stored, 29), struct.unpack('<i8', new, 29)
  local seconds, nanos = timestamp(present)
  return stored_end > new_end and stored_end <= seconds * 1000000 + nanos / 1000
end
"""

# KEYS: entities. ARGV: the latest instant that is written; seconds to live, or 0; the marks of the files; a field to
# delete, or nothing; the number of fields; their names, the event timestamp's first; then the fields of each entity.
# Returns the places of the keys, from 1, that hold something else than a row, and were left alone; and how many rows
# were, as they are ahead of the files.
# A stored timestamp that lies in the future was let in by another writer and must not shut out the present.
COMPARE_AND_SET = (
    _READ_TIMESTAMP
    + PUT
    + _IS_AHEAD
    + _ENDS_LATER
    + """
local present, seconds, marks, dropped, fields = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local applied, foreign, ahead, row = applied_of(ARGV[6]), {}, 0, {}
local steps = string.sub(ARGV[5 + fields], 1, 7) == '_steps:' and ARGV[5 + fields]
for field = 1, fields do
  row[2 * field - 1] = ARGV[5 + field]
end
for i, key in ipairs(KEYS) do
  local before = 5 + fields * i
  local event, stored = ARGV[before + 1], redis.pcall('HGET', key, ARGV[6])
  if type(stored) == 'table' then
    foreign[#foreign + 1] = i
  elseif stored and is_ahead(redis.call('HGET', key, applied), marks) then
    ahead = ahead + 1
  elseif stored == event and steps and ends_later(redis.call('HGET', key, steps), ARGV[before + fields], present) then
    -- it stays
  elseif not (stored and stored ~= event and older(event, stored) and not older(present, stored)) then
    for field = 1, fields do
      row[2 * field] = ARGV[before + field]
    end
    put(key, row, 1, seconds)
    if dropped ~= '' then
      redis.call('HDEL', key, dropped)
    end
  end
end
return {foreign, ahead}
"""
)

# KEYS: the entity. ARGV: the bytes of the event timestamp as last seen; seconds to live, or 0; the marks of the files;
# a field to delete, or nothing; then names and values of the row that takes its place, the event timestamp's first.
# Returns 1 if it did.
COMPARE_AND_SWAP = (
    PUT
    + _IS_AHEAD
    + """
local found = redis.call('HMGET', KEYS[1], ARGV[5], applied_of(ARGV[5]))
if found[1] ~= ARGV[1] or is_ahead(found[2], ARGV[3]) then
  return 0
end
put(KEYS[1], ARGV, 5, tonumber(ARGV[2]))
if ARGV[4] ~= '' then
  redis.call('HDEL', KEYS[1], ARGV[4])
end
return 1
"""
)

# KEYS: the entity. ARGV: the event timestamp's name, its bytes as last seen, the marks of the files, the fields to
# delete. Returns 1 if it did.
# What is left in a key without an event timestamp of any view is what older definitions left, and can't be read.
COMPARE_AND_DELETE = (
    IN_PIECES
    + _IS_AHEAD
    + """
local found = redis.call('HMGET', KEYS[1], ARGV[1], applied_of(ARGV[1]))
if found[1] ~= ARGV[2] or is_ahead(found[2], ARGV[3]) then
  return 0
end
in_pieces('HDEL', KEYS[1], ARGV, 4)
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 4) == '_ts:' then
    return 1
  end
end
redis.call('DEL', KEYS[1])
return 1
"""
)

# ARGV: a cursor, a pattern, a count, a field, how many fields the view has, and known fields, if any. Returns the next
# cursor, the keys, that field of each, and the places, from 1, of the keys that have more fields than the view, or none
# of it, and others than those that are known. Of a key that holds something else than a hash the field is 0.
SCAN = """
local cursor, keys = unpack(redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3]))
local fields, fuller, own = {}, {}, tonumber(ARGV[5])
local function has_others(key, size)
  local known = 0
  for first = 6, #ARGV, 4000 do
    for _, value in ipairs(redis.call('HMGET', key, unpack(ARGV, first, math.min(first + 3999, #ARGV)))) do
      if value then known = known + 1 end
    end
  end
  return size > known
end
for i, key in ipairs(keys) do
  local field = redis.pcall('HGET', key, ARGV[4])
  if type(field) == 'table' then
    fields[i] = 0
  else
    fields[i] = field
    local size = redis.call('HLEN', key)
    if (not field or size > own) and has_others(key, size) then
      fuller[#fuller + 1] = i
    end
  end
end
return {cursor, keys, fields, fuller}
"""


class ForeignKeys(ResponseError):
    """Keys of this project that hold something else than a row: they were left alone, all others were written."""

    def __init__(self, keys: list[bytes]):
        more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
        super().__init__(f"WRONGTYPE: the key {keys[0]!r} holds no hash{more}")


class Pending:
    """Calls of a script, one key each, until all are answered: a Redis may not know the script yet.

    That may be one master of a Cluster among others, such as a replica that has just become one. The calls that it did
    not run are sent again, in any order. redis-py's own way, `register_script`, does none of that in a Cluster, where a
    key of each call decides which master it goes to.
    """

    def __init__(self, script: str, calls: list[tuple[bytes, list]]):
        self.script, self._sha, self._calls = script, hashlib.sha1(script.encode()).hexdigest(), calls
        self._waiting, self._attempts = list(range(len(calls))), 3
        self.replies: list = [None] * len(calls)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, pipeline: Any) -> None:
        for place in self._waiting:
            key, arguments = self._calls[place]
            pipeline.execute_command("EVALSHA", self._sha, 1, key, *arguments)

    def receive(self, replies: list) -> None:
        """Keep the replies; raises the first error that is another than a script that is not known."""
        self._attempts -= 1
        unknown = []
        for place, reply in zip(self._waiting, replies, strict=True):
            if isinstance(reply, NoScriptError) and self._attempts:
                unknown.append(place)
            elif isinstance(reply, Exception):
                raise reply
            self.replies[place] = reply
        self._waiting = unknown
