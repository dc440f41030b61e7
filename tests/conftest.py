"""One thread a test process: two run at a time, and what a test trains is small."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
os.environ.setdefault("WANDB_MODE", "offline")
