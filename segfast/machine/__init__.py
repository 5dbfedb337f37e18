"""What this machine is: its CPU, memory and GPUs, told without starting CUDA."""
