"""The mathematics of diffusion models, in torch alone: schedules, timestep paths, predictions, samplers.

Notation. The papers count t = 1 … T; here t = 0 … T-1 is the index into tables of length T, so that
index t is the papers' t+1, and the index -1 stands for the data, where ᾱ = 1.
"""
