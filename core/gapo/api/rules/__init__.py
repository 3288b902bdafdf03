"""Rules over several fields of the spec: one table, from which the client's checks and the server's rules come."""
