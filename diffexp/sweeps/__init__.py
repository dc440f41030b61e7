"""Sweeps: validate, plan and run W&B's sweep files, locally or on Slurm. Only timing a trial imports torch."""
