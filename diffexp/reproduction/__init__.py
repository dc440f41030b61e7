"""Compare a repeated training with the recorded one; `diffexp.commands.reproduce` runs it.

recorded_run.py  what is known of a run: from its directory, a checkpoint, or W&B
compare.py       bit for bit, or by its scores
"""
