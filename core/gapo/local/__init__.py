"""The executor that runs a plan's tasks as processes of this machine."""
