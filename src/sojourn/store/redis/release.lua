-- Give a lock back if it is still its owner's. KEYS[1]: the lock. ARGV: the owner's token. Returns 1 or 0.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])
