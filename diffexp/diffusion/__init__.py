"""The mathematics of diffusion models, in torch alone: schedules, paths, predictions, losses, samplers, likelihood.

Notation (Ho et al. 2020, except for the index t):

- x_0: an image in [-1, 1]; x_t: the noised image; ε ~ N(0, I): the noise; x̂_0, ε̂: their estimates by the network.
- β_t in (0, 1): the variance of one forward step; α_t = 1 - β_t; ᾱ_t = α_1 ⋯ α_t.
- x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε; SNR_t = ᾱ_t/(1-ᾱ_t). EDM's σ (Karras et al. 2022) is √(1-ᾱ_t)/√ᾱ_t = 1/√SNR_t.
- λ_t = log(√ᾱ_t/√(1-ᾱ_t)) = ½ log SNR_t (Lu et al. 2022b).
- The papers count t = 1 … T. The code's index t = 0 … T-1 is the papers' t+1. Index -1 is the data, where ᾱ = 1.

Shapes: B images, C channels, H × W pixels; a batch is (B, C, H, W), its timestep indices are int64 (B,).
"""
