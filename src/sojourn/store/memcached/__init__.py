"""Sessions in memcached, on one server or spread over several, in both colours."""
