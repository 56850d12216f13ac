"""The life of a session as pure decisions: standard library only, and no clock, randomness or I/O."""
