"""`diffexp sample`."""

from pathlib import Path

import click

from diffexp.cli.options import OVERRIDES, PLUGIN


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@OVERRIDES
@PLUGIN
def sample(run: str, overrides: tuple[str, ...], plugins: tuple[str, ...]) -> None:
    """Draw images with a trained model.

    Keys: sampler.name, sampler.steps, sampler.eta, …; count, seed, weights (ema or raw), batch_size, and out:
    a .png (grid), an .npz or a folder of PNGs. Without out, the grid goes to the run's drawings/. overwrite=true
    replaces an earlier drawing.
    """
    from diffexp.checkpoints.paths import find_checkpoint
    from diffexp.config.load import load_sample_request
    from diffexp.config.plugins import load_plugins

    load_plugins(plugins)
    find_checkpoint(Path(run))
    from diffexp.checkpoints.load import build_trained, load_trained
    from diffexp.commands import sample

    trained = load_trained(Path(run))
    request = load_sample_request(overrides, trained.experiment)
    out = Path(request.out) if request.out is not None else sample.default_out(trained, request)
    sample.check_out(out, overwrite=request.overwrite)
    model = build_trained(trained, request.weights, request.accelerator)
    sample.save(sample.draw(model, request), out, overwrite=request.overwrite)
    click.echo(f"{request.count} images: {out}")
