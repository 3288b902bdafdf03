"""What a run tells Prometheus: names, the series that follow from what is known, and how they are served."""
