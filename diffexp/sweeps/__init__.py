"""Sweeps: W&B's sweep files, checked, planned, and run here or on Slurm. Nothing here imports torch, but to time."""
