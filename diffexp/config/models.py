"""The group of generative models: what ``model: {name: …}`` chooses from."""

from dataclasses import dataclass

from diffexp.config.registry import Choice, Registry


@dataclass
class ModelConfig(Choice):
    """A generative model. Its builder gets the image shape (C, H, W), the `Optim` config and the seed."""


MODELS = Registry("model", ModelConfig)
