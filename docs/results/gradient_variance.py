"""The gradient's variance of the lecture notes' un-merged loss beside that of the merged one, at the same weights.

    python docs/results/gradient_variance.py RUN

Both have the same expectation: the un-merged target is ε_t = √(β_t/(1-ᾱ_t)) ε + √(1-β_t/(1-ᾱ_t)) ω, and the merged one
its mean over ω. RUN must predict step_epsilon.
"""

import sys
from pathlib import Path

import torch

from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import to_float
from diffexp.diffusion.timesteps import Uniform
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.draws import Drawing, Draws, draw
from diffexp.randomness import generator
from diffexp.trained import build_trained, load_trained

BATCH, BATCHES = 64, 200


def gradient(model: DiffusionModule, x0: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Of the mean loss, all parameters in a row."""
    _, minimised = model.loss(x0, draws)
    parameters = list(model.network.parameters())
    return torch.cat([each.flatten() for each in torch.autograd.grad(minimised.mean(), parameters)])


def main() -> None:
    """Measure and print a table."""
    trained = load_trained(Path(sys.argv[1]))
    model = build_trained(trained, "raw", "cpu")
    assert isinstance(model, DiffusionModule)
    images = ImageDataModule.from_config(trained.experiment.data, 1, 0).images("train")
    moments: dict[str, list[torch.Tensor]] = {"un-merged": [], "merged": []}
    for number in range(BATCHES):
        source = generator(torch.device("cpu"), "gradient variance", 0, number)
        x0 = to_float(images.fetch(torch.randint(len(images), (BATCH,), generator=source)))
        draws = draw(x0, 1, source, Drawing(Uniform(model.schedule.timesteps), second_noise=True))
        assert draws.other is not None
        # both on the same images, timesteps and x_t
        mean = Draws(draws.t, draws.noise, torch.zeros_like(draws.other))
        for name, each in (("un-merged", draws), ("merged", mean)):
            found = gradient(model, x0, each)
            moments[name] = [*moments[name], found]
    print("| loss | ‖mean gradient‖² | variance (trace) | of the merged one |")
    print("|---|---|---|---|")
    stacked = {name: torch.stack(found) for name, found in moments.items()}
    base = stacked["merged"].var(0).sum()
    for name, found in stacked.items():
        variance = found.var(0).sum()
        # without the share of the variance that the mean of so many batches still has
        squared = found.mean(0).square().sum() - variance / BATCHES
        print(f"| {name} | {squared:.3g} | {variance:.3g} | {variance / base:.3g} |")


if __name__ == "__main__":
    main()
