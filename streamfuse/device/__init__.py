"""The worker on a CUDA device: the same chain as `worker.py`, from picture to picture without leaving it."""
