"""diffexp: experiments with diffusion models, from one config."""

__version__ = "0.1.0"
