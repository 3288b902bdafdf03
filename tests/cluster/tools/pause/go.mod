// The process that holds a pod's namespaces open, and the test node's own: it waits and reaps.
module gapo.dev/tests/cluster/tools/pause

go 1.24.0
