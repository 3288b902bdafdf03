"""`gapo` against a cluster: submit, status, logs, doctor, suspend and resume, also as `kubectl gapo`.

One file a command, thin. The Kubernetes library is imported when a command talks to a cluster, so that `gapo --help`
stays quick and works without it.
"""
