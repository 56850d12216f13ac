-- Note a session under its principal, bury entries whose time is over, and let the index end with its last entry.
-- KEYS[1]: the principal's index, a sorted set of session keys by the end (ms) that they cannot outlive.
-- ARGV: the session's key, its end in ms, the time now in ms.
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if last then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', last - ARGV[3])) end
return 1
