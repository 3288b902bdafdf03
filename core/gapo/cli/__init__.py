"""The `gapo` command. Thin: each command loads, calls a room of core, and prints."""

from gapo.cli.app import main

__all__ = ["main"]
