"""A cluster on this machine: real nodes behind a real balancer, a small shop to click through, nodes to kill."""
