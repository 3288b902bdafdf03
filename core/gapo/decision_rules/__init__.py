"""Decisions as pure functions: facts in, a verdict with its reason out. No clock, no randomness, no I/O."""
