"""Runs beside each other: what differs in their configs, curves, scores, samples and cost. Reads files only.

recorded.py   what a run's directory tells
facts.py      what several runs tell together
tables.py     tables as Markdown and LaTeX
schedules.py  their noise schedules
plots.py      which plots there are, drawn by drawing.py
pictures.py   which sample grids fit
page.py       one self-contained HTML page
"""
