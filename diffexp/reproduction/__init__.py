"""Running a recorded training again, and whether it comes out the same.

recordings.py   what is known of a run: from its directory, a checkpoint, or W&B
comparing.py    bit for bit, or by its scores
again.py        the training, and what is told of it
"""
