"""From tasks to Kubernetes objects. Pure: no clock, no randomness, no API call."""
