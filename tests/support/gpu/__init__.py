"""The CUDA kernels and ops in tests: on a GPU, or as they were compiled for the processor."""
