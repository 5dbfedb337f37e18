"""A service on one machine: an Engine behind HTTP. The command is `python -m segfast.serve`."""
