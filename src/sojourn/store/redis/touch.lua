-- Move the two times in a session's header if it still has the version named; the values are not written.
-- KEYS[1]: the session. ARGV: format byte and version as in the header, the two times as 16 bytes, milliseconds to keep.
-- Returns 1 done, 0 gone, -1 stale.
local header = redis.call('GETRANGE', KEYS[1], 0, 41)
if header == '' then return 0 end
if #header < 42 or header:sub(1, 1) .. header:sub(3, 10) ~= ARGV[1] then return -1 end
-- In this order: a full server (maxmemory) refuses SETRANGE as a script's first write, and then nobody could even look.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SETRANGE', KEYS[1], 10, ARGV[2])
return 1
