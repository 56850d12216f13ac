"""Sessions on Redis or Valkey: one server, Sentinel or Cluster, in both colours."""
