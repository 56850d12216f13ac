-- Remove a session if it still has the version named.
-- KEYS[1]: the session. ARGV: format byte and version as in the header.
-- Returns 1 done, 0 gone, -1 stale.
local header = redis.call('GETRANGE', KEYS[1], 0, 41)
if header == '' then return redis.call('UNLINK', KEYS[1]) end
if #header < 42 or header:sub(1, 1) .. header:sub(3, 10) ~= ARGV[1] then return -1 end
return redis.call('UNLINK', KEYS[1])
