"""What runs inside a vLLM server that draws a run's samples, and how such a server is started.

The modules of this package are imported by vLLM's own processes: they import nothing of the trainer.
"""
