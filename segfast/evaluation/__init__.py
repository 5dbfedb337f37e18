"""Scores of an engine on a labelled dataset, and how they are shown."""
