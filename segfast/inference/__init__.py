"""What an Engine does with a request, beside the network: stages, limits, scores."""
