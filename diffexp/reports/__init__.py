"""Compare runs by their configs, curves, scores, samples and cost. Reads files only.

tables.py     what several runs have in common and where they differ, as tables
schedules.py  their noise schedules
plots.py      which plots there are; figure.py draws them
images.py     which sample grids fit
page.py       one self-contained HTML page
dashboard.py  a saved view of a W&B project
"""
