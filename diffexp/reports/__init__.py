"""Compare runs by their configs, curves, scores, samples and cost, from their files alone.

groups.py     groups of runs that differ only in seeds
tables.py     tables of common and differing settings, scores and cost
schedules.py  noise schedules of the runs
plots.py      selection of the plots; figure.py draws them
images.py     selection of the sample grids that fit
measures.py   what groups of runs have in common; verdict.py says which is better, verdict_tables.py shows why;
              over_settings.py: the same for all settings of two sweeps
page.py       one self-contained HTML page
dashboard.py  a saved view of a W&B project
"""
