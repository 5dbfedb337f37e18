"""Long proofs of batches and of the service, by hand: docs/scale.md and docs/serving.md have the commands."""
