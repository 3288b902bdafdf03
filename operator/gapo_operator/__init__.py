"""gapo on a Kubernetes cluster: what the planner asks for, as Jobs."""
