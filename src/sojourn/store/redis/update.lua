-- Replace a session's frame if it still has the version named. One key, so that Cluster can run it.
-- KEYS[1]: the session. ARGV: format byte and version as in the header, the new frame, milliseconds to keep it.
-- Returns 1 done, 0 gone, -1 stale.
local header = redis.call('GETRANGE', KEYS[1], 0, 41)
if header == '' then return 0 end
if #header < 42 or header:sub(1, 1) .. header:sub(3, 10) ~= ARGV[1] then return -1 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
