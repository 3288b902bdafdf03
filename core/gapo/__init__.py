"""gapo: the contract and the decisions. Everything here runs without torch and without a cluster."""

__version__ = "0.1.0"
