"""Where records live: one driver a file, and the only code that talks to storage."""
