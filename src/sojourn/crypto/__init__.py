"""Keys, sealed bytes, and records that are encrypted where they lie."""
