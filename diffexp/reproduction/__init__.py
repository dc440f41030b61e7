"""Compare a repeated training with the recorded one; `diffexp.commands.reproduce` runs both.

recorded_run.py  read the record of a run from its directory, a checkpoint, or W&B
compare.py       compare bit for bit
scores.py        compare by scores
"""
