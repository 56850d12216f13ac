"""Replication between hosts: the rules, without sockets, clocks or storage. Read ``replica`` first, then ``node``."""
