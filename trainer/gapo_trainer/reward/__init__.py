"""The reward model: encoder, inputs, batches, training, gate, measures and scorers (docs/method/reward-model.md)."""
