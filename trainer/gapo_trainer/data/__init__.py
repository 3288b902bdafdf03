"""Training data: grammars, constraint-aware pairs, splits, leakage probes, exports."""
