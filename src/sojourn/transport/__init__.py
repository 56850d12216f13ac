"""Headers to tokens and tokens to headers: pure text, no framework, no clock."""
