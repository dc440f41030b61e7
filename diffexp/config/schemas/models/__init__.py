"""Schemas of the generative models, one file a model; importing this registers all of diffexp's own."""

from diffexp.config.schemas.models import autoregressive, diffusion, flow, gan, latent_diffusion, vae

__all__ = ["autoregressive", "diffusion", "flow", "gan", "latent_diffusion", "vae"]
