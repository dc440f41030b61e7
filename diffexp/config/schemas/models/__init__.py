"""Schemas of the generative models, one file each. Importing this registers all built-in ones."""

from diffexp.config.schemas.models import autoregressive, diffusion, flow, gan, latent_diffusion, vae

__all__ = ["autoregressive", "diffusion", "flow", "gan", "latent_diffusion", "vae"]
