"""`diffexp sample`."""

from pathlib import Path

import click

from diffexp.cli.imports import quick_imports
from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@OVERRIDES
@PLUGIN
def sample(run: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Sample images from a trained model.

    \b
    RUN|CHECKPOINT  run directory (latest checkpoint), checkpoint or exported file
    KEY=VALUE       one of the keys below

    \b
    Common keys:
      sampler.name, sampler.steps, sampler.eta, …
                  [default: the model's; for diffusion, DDIM with 50 steps]
      count       number of images [default: 64]
      seed        image i depends on the seed and i alone [default: 0]
      weights     ema or raw [default: ema]
      batch_size  images sampled at once [default: 256]
      out         NAME.png (a grid), NAME.npz, or a folder of PNGs
                  [default: a grid in the run's drawings/]
      overwrite   true replaces earlier images [default: false]

    \b
    Example:
      diffexp sample runs/digits-1 sampler.name=ddim sampler.steps=20 out=x.png
    """
    from diffexp.checkpoints.paths import find_checkpoint
    from diffexp.checkpoints.stored_config import stored_experiment
    from diffexp.commands.sample_out import check_out
    from diffexp.config.load import load_sample_request
    from diffexp.config.plugins import load_plugins
    from diffexp.config.schemas.samplers import check_class_names

    load_plugins(plugins)
    find_checkpoint(Path(run))
    experiment = stored_experiment(Path(run))
    if experiment is not None:  # report mistakes before torch is imported
        request = load_sample_request(overrides, experiment)
        if request.out is not None:
            check_out(Path(request.out), overwrite=request.overwrite)
    with quick_imports():
        from diffexp.checkpoints.load import build_trained, load_trained
        from diffexp.commands import sample

    trained = load_trained(Path(run))
    request = load_sample_request(overrides, trained.experiment)
    check_class_names({"sampler": request.sampler}, "", trained.class_names)
    out = Path(request.out) if request.out is not None else sample.default_out(trained, request)
    check_out(out, overwrite=request.overwrite)
    model = build_trained(trained, request.weights, request.accelerator)
    sample.save(sample.draw(model, request), out, overwrite=request.overwrite)
    click.echo(f"{request.count} images: {out}")
