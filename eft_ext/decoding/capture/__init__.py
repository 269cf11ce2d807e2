"""A step run without Python: traced on the CPU, a graph or a loop on CUDA."""
