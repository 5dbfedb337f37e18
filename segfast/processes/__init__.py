"""The process around an Engine: forks, other processes, PyTorch's global state."""
