"""Export to diffusers: its pipelines draw what ours draw, and diffexp imports its own exports."""

import json
import re
import shutil
from unittest.mock import patch

import diffusers as library
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

from diffexp.checkpoints.load import TrainedModel, build_trained, load_trained
from diffexp.commands.export import export
from diffexp.config.load import load_experiment, load_export_request
from diffexp.config.schemas.samplers import DDIMConfig, DPMSolverConfig, UniPCConfig
from diffexp.convert.diffusers import SCHEDULERS, how_to_load
from diffexp.errors import UserError
from diffexp.models.build import build_model
from tests.helpers.conversion import agree, awake, imported

NETWORK = [
    "data.image_size=16",
    "model.network={base_channels: 32, channel_multipliers: [1, 2, 2], num_res_blocks: 2, dropout: 0, "
    "attention_resolutions: [8]}",
    "sample_grid.samplers={ddpm: null, ddim-50: null}",
]
ZERO = "model.schedule.zero_terminal_snr=true"
SIMPLE = [
    ("model.schedule.name=linear",),
    ("model.prediction=v", "model.schedule.name=cosine"),
    ("model.prediction=x0", "model.schedule.name=sigmoid"),
    ("model.schedule.name=scaled_linear", "model.schedule.beta_end=0.012"),
    ("model.schedule.name=proportional",),
    ("model.timesteps=500", "model.schedule={name: linear, rescale: 1000/T}"),
    ("model.schedule={name: cosine, s: 0.01}",),
    ("model.prediction=v", "model.schedule.name=linear", ZERO),
    ("model.prediction=v", "model.schedule.name=cosine", ZERO),
    ("model.prediction=x0", "model.schedule.name=sigmoid", ZERO),
]
OURS = {
    "DPMSolverMultistepScheduler": DPMSolverConfig(steps=5, spacing="trailing", clip_sample=False),
    "UniPCMultistepScheduler": UniPCConfig(steps=5, spacing="trailing", clip_sample=False),
    "EulerDiscreteScheduler": DDIMConfig(steps=5, spacing="trailing", clip_sample=False),
}
LEARNED = [("model.loss=hybrid",), ("model.loss=vlb", "model.schedule.name=cosine")]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Ours in diffusers' form, made once for each set of keys: (the trained model, the folder)."""
    made = {}

    def exported(keys):
        if keys not in made:
            folder = tmp_path_factory.mktemp("exported")
            wanted = load_experiment("image_folder", [f"data.path={folder}", *NETWORK, *keys])
            model = awake(build_model(wanted))
            trained = TrainedModel(folder / "it", 0, wanted, {"ema": dict(model.state_dict())})
            request = load_export_request([f"out={folder / 'pipeline'}", "format=diffusers"], wanted)
            made[keys] = trained, export(trained, request)
        return made[keys]

    return exported


def walked(model, sampler, noise):
    """Our sampler from a given noise."""

    class Given:
        def draw(self):
            return noise

    *_, state = model.trajectory(sampler, Given())
    return state.x


def piped(pipeline, noise):
    """Their pipeline from a given noise, which it takes from torch's generator alone."""
    with patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: noise):
        images = pipeline(
            batch_size=len(noise), num_inference_steps=10, use_clipped_model_output=True, output_type="np"
        )
    return torch.from_numpy(images.images)


@pytest.mark.parametrize("keys", SIMPLE, ids=" ".join)
def test_exported_to_diffusers_its_ddim_draws_the_same(keys, exports):
    trained, folder = exports(keys)
    again = DDIMPipeline.from_pretrained(folder)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, DDIMScheduler)
    ours = build_trained(trained, "ema", "cpu")
    agree(again.unet, ours)
    theirs = again.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(theirs, ours.schedule.alphas_cumprod, rtol=1e-3, atol=1e-6)
    assert (theirs[-1] == 0) == (ZERO in keys)
    noise = torch.randn(2, 3, 16, 16)
    drawn = walked(ours, DDIMConfig(steps=10, spacing="trailing"), noise)
    images = piped(again, noise)
    torch.testing.assert_close((drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), images, rtol=0, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [*SIMPLE, *LEARNED], ids=" ".join)
def test_every_scheduler_that_is_named_samples_an_export(keys, exports):
    trained, folder = exports(keys)
    text = how_to_load(trained.experiment.model, folder)
    named = re.findall(r"\w+Scheduler", text)
    assert (named == list(SCHEDULERS)) == (keys in SIMPLE)
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    last = 1 - pipeline.scheduler.alphas_cumprod.double()[-1]
    for scheduler in [type(pipeline.scheduler), *(getattr(library, name) for name in named)]:
        chosen = scheduler.from_config(pipeline.scheduler.config)
        assert abs(1 - chosen.alphas_cumprod.double()[-1] - last) < 1e-6  # none ignores a zero terminal SNR
        chosen.set_timesteps(5)
        noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        images = noise * chosen.init_noise_sigma
        with torch.no_grad():
            for t in chosen.timesteps:
                output = pipeline.unet(chosen.scale_model_input(images, t), t).sample
                images = chosen.step(output, t, images).prev_sample
        assert images.isfinite().all(), scheduler
        if scheduler.__name__ in OURS and ZERO not in keys:
            expected = walked(build_trained(trained, "ema", "cpu"), OURS[scheduler.__name__], noise)
            # their Euler starts from noise that is larger by √(1 + 1/σ²)
            assert (images - expected).abs().max() < 1e-2 * expected.abs().max(), scheduler


@pytest.mark.parametrize("keys", [*SIMPLE, *LEARNED], ids=" ".join)
def test_diffexp_imports_each_of_its_exports(keys, exports, tmp_path):
    trained, folder = exports(keys)
    out, _ = imported(folder, tmp_path / "again.safetensors", *NETWORK[2:])
    again = load_trained(out)
    model, wanted = again.experiment.model, trained.experiment.model
    assert (model.schedule, model.timesteps, model.prediction, model.loss) == (
        *(wanted.schedule, wanted.timesteps, wanted.prediction, wanted.loss),
    )
    assert model.network == wanted.network
    for name, tensor in trained.weights["ema"].items():
        assert torch.equal(again.weights["ema"][name], tensor)


def test_an_export_whose_scheduler_was_changed_is_refused(exports, tmp_path):
    _, folder = exports(SIMPLE[4])
    shutil.copytree(folder, tmp_path / "changed")
    file = tmp_path / "changed" / "scheduler" / "scheduler_config.json"
    content = json.loads(file.read_text())
    content["trained_betas"][3] *= 1.001
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"expected trained_betas as in diffexp\.json, got other values"):
        imported(tmp_path / "changed", tmp_path / "it.safetensors")
