"""The reward model: encoder, inputs, batches, training, gate, measures and scorers (docs/method.md 1-5)."""
