"""What every family promises, of each of them."""

import functools

import pytest
import torch

from diffexp.checkpoints.load import build_trained, load_trained
from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.errors import UserError
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.reference import of_images
from diffexp.models.base import as_pixels
from diffexp.models.build import build_model
from tests.helpers.resumes import resume
from tests.helpers.sets import scores_of
from tests.integration.test_training import assert_same, state

SMALL = {
    "diffusion": ["model.network={'base_channels': 8, 'norm_num_groups': 4}", "model.timesteps=60"],
    "gan": ["model.widths=[8, 8]", "model.discriminator_widths=[8, 8]", "model.latent_dim=5"],
    "vae": ["model.widths=[8, 8]"],
    "flow": ["model.steps_per_level=1", "model.width=8"],
    "pixel_rnn": ["model.network={'width': 8, 'layers': 1}"],
    "transformer": ["model.network={'width': 8, 'layers': 1, 'heads': 2, 'dropout': 0}"],
    "latent_diffusion": [
        "model.vae.widths=[8, 8]",
        "model.network={'base_channels': 8, 'norm_num_groups': 4}",
        "model.timesteps=60",
    ],
}
ALL = pytest.mark.parametrize("family", SMALL)


def wanted(family, *overrides):
    given = [f"model.autoencoder={overrides[0]}", *overrides[1:]] if family == "latent_diffusion" else overrides[1:]
    plain = ["loggers=[csv]", "training.precision=32-true", "training.log_every_n_steps=1", "sample_grid=null"]
    return load_experiment(f"families/digits_{family}", [*plain, *given])


def fit(family, *overrides):
    experiment = wanted(family, *overrides)
    train_run(experiment, start_run(experiment), [])


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A small VAE, hardly trained."""
    folder = tmp_path_factory.mktemp("vae") / "run"
    fit("vae", None, *SMALL["vae"], "score=null", "training.max_steps=3", f"run_dir={folder}")
    return folder


def untrained(experiment):
    model = build_model(experiment)
    if hasattr(model, "latent_std"):
        model.latent_std.fill_(1)
    return model


@ALL
def test_an_image_does_not_depend_on_those_beside_it(family, autoencoder):
    experiment = wanted(family, autoencoder, *SMALL[family])
    model = untrained(experiment)
    variant = next(iter(experiment.model.default_samplers().values()))
    told = []
    many = model.sample(variant, range(3, 9), 5, lambda: told.append(1))
    assert many.shape == (6, *model.image_shape)
    assert many.dtype == torch.float32
    assert len(told) == model.network_calls(variant) == experiment.model.network_calls(variant, experiment.data)
    torch.testing.assert_close(model.sample(variant, [7, 4], 5), many[[4, 1]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(many[0], many[1], atol=1e-3)
    assert not torch.allclose(model.sample(variant, range(3, 9), 6), many, atol=1e-3)
    assert model.training


@pytest.mark.slow
@ALL
def test_it_resumes_bit_for_bit_and_accumulates(family, autoencoder, tmp_path):
    short = [*SMALL[family], "score=null", "training={'max_steps': 4, 'batch_size': 8}", "checkpoint.every=2"]
    fit(family, autoencoder, *short, f"run_dir={tmp_path / 'whole'}")
    fit(family, autoencoder, *short, "training.max_steps=2", "optim.decay=none", f"run_dir={tmp_path / 'parts'}")
    fit(family, autoencoder, *short, "optim.decay=none", f"run_dir={tmp_path / 'undecayed'}")
    resume(tmp_path / "parts", "training.max_steps=4")
    assert_same(state(tmp_path / "parts"), state(tmp_path / "undecayed"))
    fit(family, autoencoder, *short, "training.accumulate_grad_batches=2", f"run_dir={tmp_path / 'accumulated'}")
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "accumulated")
    if family == "latent_diffusion":  # whose scale is taken from the first batch
        return
    torch.testing.assert_close(
        {name: each for name, each in parts.items() if name.startswith("adam")},
        {name: each for name, each in whole.items() if name.startswith("adam")},
        rtol=1e-3,
        atol=1e-5,
    )


def test_a_latent_diffusion_carries_its_autoencoder(autoencoder, tmp_path):
    copy = tmp_path / "vae"
    copy.mkdir()
    for file in autoencoder.rglob("*"):
        if file.is_file():
            (copy / file.relative_to(autoencoder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(autoencoder)).write_bytes(file.read_bytes())
    short = [*SMALL["latent_diffusion"], "score=null", "training={'max_steps': 2, 'batch_size': 64}"]
    fit("latent_diffusion", copy, *short, f"run_dir={tmp_path / 'run'}")
    for file in sorted(copy.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    model = build_trained(load_trained(tmp_path / "run"), "raw", "cpu")
    first = build_trained(load_trained(autoencoder), "ema", "cpu")
    for name, weight in first.state_dict().items():
        assert torch.equal(model.state_dict()[f"autoencoder.{name}"], weight)
    images = ImageDataModule.from_config(wanted("vae", None).data, 1, 0).images("train").fetch(torch.arange(500))
    x = images / 127.5 - 1
    z = model.encode(x, torch.randn(500, 4, 4, 4))
    assert (z / model.latent_std).std().item() == pytest.approx(1, abs=0.1)


def test_an_autoencoder_that_does_not_fit_is_refused(autoencoder, tmp_path):
    with pytest.raises(UserError, match=r"model\.autoencoder: .*run.*: its weights \(model\.name = vae\) do not fit"):
        fit("latent_diffusion", autoencoder, "model.vae.widths=[16, 8]", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"model\.autoencoder: required key is missing"):
        load_experiment("families/digits", ["model.name=latent_diffusion", "model.network.attention_resolutions=[4]"])
    with pytest.raises(UserError, match=r"model\.autoencoder: .*nowhere: no such checkpoint or run"):
        fit("latent_diffusion", "nowhere", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"clip_sample: expected false"):
        fit("latent_diffusion", autoencoder, "score.samplers.ddim-50.clip_sample=true")


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("gan", ["score.samplers.x={'name': 'ddim'}"], r"x\.name: expected prior for model\.name = gan, got ddim"),
        ("pixel_rnn", ["score.samplers.x={'name': 'prior'}"], r"expected ancestral for .*, got prior"),
        ("diffusion", ["score.samplers.x={'name': 'prior'}"], r"expected ddim or .* for .* diffusion, got prior"),
        ("vae", ["model.widths=[4, 4, 4, 4, 4]"], r"model\.widths: expected .* divisible by 16 for 5 levels, got 8"),
        ("flow", ["model.levels=4"], r"model\.levels: .* divisible by 16 for 4 levels, got 8"),
        ("transformer", ["model.network.heads=5"], r"model\.network\.heads: expected a divisor of width = 64, got 5"),
        ("gan", ["model.network.name=unet"], r"this key belongs to model.name = autoregressive, diffusion"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told(family, overrides, message):
    with pytest.raises(UserError, match=message):
        wanted(family, None, *overrides)


def test_a_model_without_likelihood_says_so(autoencoder):
    for family in ("gan", "latent_diffusion"):
        model = build_model(wanted(family, autoencoder, *SMALL[family]))
        with pytest.raises(UserError, match="expected a model with a likelihood"):
            model.bits_per_dim(torch.zeros(1, *model.image_shape, dtype=torch.uint8), [0], 0, None)


# --- that they learn


@functools.cache
def bench():
    experiment = wanted("vae", None)
    images = ImageDataModule.from_config(experiment.data, 1, 0).images("train")
    extractor = build_extractor(experiment.score.extractor, images.image_shape)
    return images.fetch(torch.arange(len(images))), extractor, of_images(images, extractor, 256, "digits")


def distance(images):
    """Fréchet distance of uint8 images to the digits."""
    _, extractor, reference = bench()
    return scores_of(images, reference, extractor)["fd"].value


def gaussian_distance():
    """That of independent pixels, each normal with the mean and spread that it has in the digits."""
    pixels = bench()[0].float()
    noise = torch.randn(500, *pixels.shape[1:], generator=torch.Generator().manual_seed(0))
    return distance((pixels.mean(0) + pixels.std(0) * noise).round().clamp(0, 255).to(torch.uint8))


def drawn(model, variant):
    return as_pixels(model.sample(variant, range(500), 0))


# Few steps, where need be of smaller networks and batches.
SHORT = {
    "diffusion": [
        *("training.max_steps=200", "optim={'lr': 4e-3, 'decay': 'cosine'}"),
        "model.network={'base_channels': 16, 'norm_num_groups': 4}",
        "score={'samplers': {'ddim-25': {'name': 'ddim', 'steps': 25, 'eta': 1.0}}}",
    ],
    "gan": ["training={'max_steps': 300, 'batch_size': 64}", "optim.lr=1e-3"],
    "vae": ["training={'max_steps': 120, 'batch_size': 64}"],
    "flow": ["training.max_steps=100"],
    "pixel_rnn": ["training={'max_steps': 100, 'batch_size': 64}", "model.network={'width': 32}"],
    "transformer": [
        *("training={'max_steps': 800, 'batch_size': 32}", "optim={'lr': 8e-3, 'decay': 'cosine'}"),
        "model.network={'width': 32, 'layers': 2}",
    ],
    "latent_diffusion": ["training.max_steps=100", "model.network={'base_channels': 16, 'norm_num_groups': 4}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("family", SHORT)
def test_it_learns_the_digits(family, tmp_path):
    """Better by far than untrained, and than a Gaussian for each pixel; decoded latents are near what was encoded."""
    common = ["score.weights=raw", "ema=null", "optim.decay=none", "optim.warmup_steps=20"]
    vae = None
    if family == "latent_diffusion":
        vae = tmp_path / "vae"
        fit("autoencoder", None, *common, *SHORT["vae"], f"run_dir={vae}")
    experiment = wanted(family, vae, *common, *SHORT[family], f"run_dir={tmp_path / 'run'}")
    variant = list(experiment.score.samplers.values())[-1]
    before = distance(drawn(untrained(experiment), variant))
    experiment.score = None
    train_run(experiment, start_run(experiment), [])
    model = build_trained(load_trained(tmp_path / "run"), "raw", "cpu")
    after = distance(drawn(model, variant))
    print(f"{family}: untrained {before:.3g}, trained {after:.3g}, a Gaussian for each pixel {gaussian_distance():.3g}")
    assert after < before / 3
    assert after < gaussian_distance() / 2
    if family == "latent_diffusion":
        x = bench()[0] / 127.5 - 1
        decoded = model.autoencoder.decode(model.encode(x, torch.randn(len(x), *model.x_shape))).clamp(-1, 1)
        error = (decoded - x).square().mean().sqrt().item()
        assert error < 0.5 * x.std(0).square().mean().sqrt().item()
