"""Compare a training step with the peers': forward, backward, clipping, optimiser, moving average.

    python benchmarks/train_step.py [--size fashion_mnist|cifar10|digits] [--compile] [--rounds 9]

All candidates get the same images and draw their own t and ε, as their library does.

- diffusers: UNet2DModel, DDPMScheduler, EMAModel and AdamW as in its train_unconditional.py.
- denoising-diffusion-pytorch: Unet, GaussianDiffusion and EMA as in its Trainer, but with the average updated in every
  step, as in the others.
- ours: `DiffusionModule.loss`, fused AdamW, `NonFiniteGuard` and the moving average. "default" marks the precision that
  `auto` selects on this machine.
"""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import count

import networks
import torch
from measuring import alternate, arguments, flop_counter, matmul_peak, peak_memory, quotients, report, spread
from networks import SIZES, Size
from torch import Tensor, nn

from diffexp.models.nonfinite import NonFiniteGuard
from diffexp.rng import DrawsAhead, RandomNumbers
from diffexp.system.devices import autocast, precision_for

Step = Callable[[Tensor], object]


def ours(
    size: Size, device: torch.device, precision: str, *, compiled: bool = False, channels_last: bool = False
) -> tuple[nn.Module, Step]:
    """Build our step, without Lightning."""
    module = size.module().to(device)
    networks.wake(module.network)
    if channels_last:
        module.to(memory_format=torch.channels_last)
    if compiled:
        module.network.compile()
    parameters = list(module.parameters())
    weights = [parameter.detach() for parameter in parameters]
    average = [weight.clone() for weight in weights]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    finite, numbers = NonFiniteGuard(0), count()
    ahead: dict[int, DrawsAhead] = {}  # by batch size

    def step(x0: Tensor) -> None:
        draws = ahead.setdefault(
            len(x0), DrawsAhead(RandomNumbers(0, torch.arange(len(x0), device=device)), x0.shape[1:])
        )
        noise = module.training_noise.sample(draws.at(next(numbers)), None, None, len(x0), 0)
        with autocast(precision, device):
            _, losses = module.loss(x0, noise)
        finite.guarded(losses, noise.t, None).backward()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        finite.check(norm, optimizer, 1)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, weights, 1e-4)

    return module.network, step


def diffusers(size: Size, device: torch.device, precision: str, *, compiled: bool = False) -> tuple[nn.Module, Step]:
    """Build the step of diffusers' examples/unconditional_image_generation/train_unconditional.py."""
    from diffusers import DDPMScheduler  # imported in the function, so that the others run without it
    from diffusers.training_utils import EMAModel

    network = networks.wake(size.diffusers().to(device))
    if compiled:
        network.compile()
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)

    def step(x0: Tensor) -> None:
        noise = torch.randn_like(x0)
        t = torch.randint(1000, (len(x0),), device=device)
        with autocast(precision, device):
            output = network(scheduler.add_noise(x0, noise, t), t).sample
        torch.nn.functional.mse_loss(output.float(), noise).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    return network, step


def lucidrains(size: Size, device: torch.device, precision: str, *, compiled: bool = False) -> tuple[nn.Module, Step]:
    """Build the step of denoising-diffusion-pytorch's Trainer."""
    import ema_pytorch
    from denoising_diffusion_pytorch import GaussianDiffusion

    network = networks.wake(size.lucidrains().to(device))
    if compiled:
        network.compile()
    diffusion = GaussianDiffusion(
        network, image_size=size.image_shape[1], objective="pred_noise", beta_schedule="linear", auto_normalize=False
    ).to(device)
    average = ema_pytorch.EMA(diffusion, beta=0.995, update_every=1)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def step(x0: Tensor) -> None:
        with autocast(precision, device):
            loss = diffusion(x0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return network, step


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--size", choices=list(SIZES), default="fashion_mnist")
    parser.add_argument("--batch-size", type=int, help="images per step; default: the size's own")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile; a minute per candidate")
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device(given.device)
    given.batch_size = given.batch_size or size.batch_size
    x0 = torch.rand(given.batch_size, *size.image_shape, device=device) * 2 - 1
    default = precision_for("auto", device)

    makers = {"diffusers": diffusers, "denoising-diffusion-pytorch": lucidrains, "ours": ours}
    candidates, counts, flops = {}, {}, {}
    for compiled in (False, True) if given.compile else (False,):
        for precision in ("32-true", "bf16-mixed"):
            for maker, make in makers.items():
                name = f"{maker}, {precision}{', compiled' if compiled else ''}"
                name += " (default)" if maker == "ours" and precision == default and not compiled else ""
                network, step = make(size, device, precision, compiled=compiled)
                candidates[name] = partial(step, x0)
                counts[name] = networks.parameters(network)
                if not compiled:
                    with flop_counter() as counter:
                        candidates[name]()
                    flops[maker] = counter.get_total_flops()
    measured = alternate(candidates, given.rounds, device)
    base = measured["diffusers, 32-true"]
    peaks = {"32-true": matmul_peak(torch.float32, device), "bf16-mixed": matmul_peak(torch.bfloat16, device)}
    rows = []
    for name, took in measured.items():
        maker, precision = name.split(" (")[0].split(", ")[:2]
        rate = flops[maker] / statistics.median(took)
        memory = peak_memory(candidates[name], device)
        rows.append(
            [
                name,
                f"{counts[name]:,}",
                f"{1000 * statistics.median(took):.1f}",
                f"{given.batch_size / statistics.median(took):.1f}",
                f"{rate / 1e9:.0f}",
                f"{rate / peaks[precision]:.0%}",
                *([f"{memory / 2**20:.0f}"] if memory is not None else []),
                spread(quotients(base, took)),
            ]
        )
    columns = ["step", "parameters", "ms", "images/s", "GFLOP/s", "share of matmul peak", "× diffusers, 32-true"]
    if device.type == "cuda":
        columns.insert(-1, "MiB at most")
    name = f"train_step-{given.size}{'-compiled' if given.compile else ''}"
    report(given, name, columns, rows, seconds=measured, flops=flops, peaks=peaks)


if __name__ == "__main__":
    main()
