"""Models of other libraries in ours, and ours in theirs."""

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from diffexp.config import load_experiment, load_export_request, load_import_request
from diffexp.config.samplers import DDIMConfig
from diffexp.errors import UserError
from diffexp.exporting import export
from diffexp.importing import import_model
from diffexp.trained import build_trained, load_trained
from tests.foreign.ho import Ho
from tests.small import diffexp

# As google/ddpm-cifar10-32, with a thirtieth of the weights.
SHAPE = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
}
DATA = ["data.name=image_folder", "data.path=images"]


def awake(network):
    """Every weight away from what it starts as."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "pipeline"
    scheduler = DDPMScheduler(beta_schedule="linear", prediction_type="epsilon")
    DDPMPipeline(awake(UNet2DModel(**SHAPE)), scheduler).save_pretrained(folder)
    return folder


def imported(path, out, *overrides, data=DATA):
    request, rest = load_import_request([f"out={out}", *data, *overrides])
    return import_model(Path(path), request, rest)


def agree(network, ours):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        their = network(x, t)
        torch.testing.assert_close(ours.network(x, t), getattr(their, "sample", their), rtol=1e-5, atol=1e-5)


def test_a_diffusers_network_imported_computes_the_same(theirs, tmp_path):
    out, _ = imported(theirs, tmp_path / "it.safetensors")
    ours = build_trained(load_trained(out), "ema", "cpu")
    agree(UNet2DModel.from_pretrained(theirs / "unet"), ours)
    assert [ours.schedule.timesteps, ours.prediction.name] == [1000, "epsilon"]
    torch.testing.assert_close(ours.schedule.betas, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def test_a_bare_folder_with_pickled_weights_and_the_layers_old_names(theirs, tmp_path):
    folder = tmp_path / "unet"
    shutil.copytree(theirs / "unet", folder)
    network = UNet2DModel.from_pretrained(folder)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = network.state_dict()
    for new, name in old.items():
        weights = {key.replace(new, name): value for key, value in weights.items()}
    torch.save(weights, folder / "diffusion_pytorch_model.bin")
    out, _ = imported(folder, tmp_path / "it.safetensors", "model.schedule.name=cosine", "model.timesteps=100")
    ours = build_trained(load_trained(out), "ema", "cpu")
    agree(network, ours)
    assert ours.schedule.timesteps == 100


@pytest.mark.slow
def test_the_network_of_google_ddpm_cifar10_32(tmp_path):
    network = awake(
        UNet2DModel(
            **{
                **SHAPE,
                "sample_size": 32,
                "block_out_channels": (128, 256, 256, 256),
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            }
        )
    )
    network.save_pretrained(tmp_path / "unet")
    out, _ = imported(tmp_path / "unet", tmp_path / "it.safetensors", data=["data.name=cifar10"])
    ours = build_trained(load_trained(out), "ema", "cpu")
    assert sum(each.numel() for each in ours.network.parameters()) == 35_746_307
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([500])
    with torch.no_grad():
        theirs = network(x, t).sample
        assert (ours.network(x, t) - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("kind", ["bare", "ddim"])
def test_a_checkpoint_of_the_authors_code(kind, tmp_path):
    network = awake(Ho())
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    raw = {name: torch.zeros_like(value) for name, value in weights.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []}
    torch.save(weights if kind == "bare" else [raw, optimizer, 5, 790000, weights], tmp_path / "model-790000.ckpt")
    out, _ = imported(tmp_path / "model-790000.ckpt", tmp_path / "it.safetensors", "image_size=16")
    agree(network, build_trained(load_trained(out), "ema", "cpu"))


@pytest.mark.parametrize(
    ("pipeline", "scheduler"), [(DDIMPipeline, DDIMScheduler), (DDPMPipeline, DDPMScheduler)], ids=["ddim", "ddpm"]
)
@pytest.mark.parametrize("keys", [["model.schedule.name=linear"], ["model.prediction=v", "model.schedule.name=cosine"]])
def test_exported_to_diffusers_its_own_pipeline_draws_the_same(pipeline, scheduler, keys, theirs, tmp_path):
    out, _ = imported(theirs, tmp_path / "it.safetensors", *keys)
    trained = load_trained(out)
    folder = export(
        trained, load_export_request([f"out={tmp_path / 'folder'}", "format=diffusers"], trained.experiment)
    )
    again = pipeline.from_pretrained(folder)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.scheduler, scheduler)
    ours = build_trained(trained, "ema", "cpu")
    agree(again.unet, ours)
    if pipeline is DDIMPipeline:
        noise = torch.randn(2, 3, 16, 16)
        drawn = walked(ours, DDIMConfig(steps=10, spacing="leading"), noise)
        images = piped(again, noise)
        torch.testing.assert_close((drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), images, rtol=0, atol=1e-4)


def test_a_schedule_without_a_name_there_is_written_number_by_number(theirs, tmp_path):
    keys = ["model.prediction=v", "model.schedule.zero_terminal_snr=true"]
    out, _ = imported(theirs, tmp_path / "it.safetensors", *keys)
    trained = load_trained(out)
    wanted = load_export_request([f"out={tmp_path / 'folder'}", "format=diffusers"], trained.experiment)
    again = DDIMPipeline.from_pretrained(export(trained, wanted))
    ours = build_trained(trained, "ema", "cpu").schedule
    torch.testing.assert_close(again.scheduler.alphas_cumprod.double(), ours.alphas_cumprod, rtol=1e-3, atol=1e-6)
    assert again.scheduler.alphas_cumprod[-1] == 0


def walked(model, sampler, noise):
    """Our sampler from a given noise."""

    class Given:
        def draw(self):
            return noise

    *_, state = model.states(sampler, Given())
    return state.x


def piped(pipeline, noise):
    """Their pipeline from a given noise, which it takes from torch's generator alone."""
    with patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: noise):
        images = pipeline(
            batch_size=len(noise), num_inference_steps=10, use_clipped_model_output=True, output_type="np"
        )
    return torch.from_numpy(images.images)


def test_imported_exported_and_imported_again_it_is_the_same(theirs, tmp_path):
    first, _ = imported(theirs, tmp_path / "first.safetensors")
    trained = load_trained(first)
    folder = export(
        trained, load_export_request([f"out={tmp_path / 'folder'}", "format=diffusers"], trained.experiment)
    )
    second, _ = imported(folder, tmp_path / "second.safetensors")
    again = load_trained(second)
    assert again.experiment == trained.experiment
    for name, tensor in trained.weights["ema"].items():
        assert torch.equal(again.weights["ema"][name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn is 'gelu', ours 'silu'"),
        ({"attention_head_dim": 8}, "attention_head_dim is 8, ours None"),
        ({"freq_shift": 0, "norm_eps": 1e-5}, "freq_shift is 0, ours 1\n  norm_eps is 1e-05, ours 1e-06"),
        ({"block_out_channels": [32, 48, 64]}, "block_out_channels is"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "blocks are not"),
        ({"layers_per_block": 1}, "is another network than its config says: no place for"),
        ({"layers_per_block": 3}, "lacks down_blocks.0.resnets.2"),
    ],
)
def test_another_network_is_refused_with_all_that_differs(change, message, theirs, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError) as refused:
        imported(folder, tmp_path / "it.safetensors")
    assert message in str(refused.value)
    assert not (tmp_path / "it.safetensors").exists()


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("PIPELINE", [], "data.name: is required"),
        ("nowhere", DATA, "nowhere: no such file or folder"),
        ("empty", DATA, "has no model_index.json and no config.json"),
        ("README.md", DATA, "cannot be read as a PyTorch checkpoint"),
        ("PIPELINE", [*DATA, "out=it.pt"], "must end in .safetensors"),
        ("PIPELINE", [*DATA, "model.predicton=v"], "model.predicton"),
    ],
)
def test_a_mistake_is_one_message(path, overrides, message, theirs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("no checkpoint")
    Path("empty").mkdir()
    with pytest.raises(UserError) as refused:
        import_model(theirs if path == "PIPELINE" else Path(path), *load_import_request(overrides))
    assert message in str(refused.value)


@pytest.mark.slow
def test_what_is_imported_samples_trains_on_and_is_exported(theirs, tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (30 * number, 0, 99)).save(tmp_path / "images" / f"{number}.png")
    told = diffexp("import", str(theirs), *DATA, "out=it.safetensors", cwd=tmp_path).stdout
    assert "diffexp train it.yaml" in told
    diffexp("sample", "it.safetensors", "count=2", "sampler.steps=3", "out=two.png", cwd=tmp_path)
    short = [
        "training.steps=1",
        "training.batch_size=4",
        "sample_grid=null",
        "loggers=[]",
        "optim.lr=1e-9",
        "run_dir=on",
    ]
    diffexp("train", "it.yaml", *short, cwd=tmp_path)
    before, after = load_trained(tmp_path / "it.safetensors"), load_trained(tmp_path / "on")
    for name, tensor in before.weights["ema"].items():
        torch.testing.assert_close(after.weights["raw"][name], tensor, rtol=0, atol=1e-8)
    assert load_experiment(str(tmp_path / "on")).init == str(tmp_path / "it.safetensors")
    diffexp("export", "on", "format=diffusers", "out=back", cwd=tmp_path)
    assert DDIMPipeline.from_pretrained(tmp_path / "back").unet.config.sample_size == 16
    refused = diffexp("train", "digits", "init=it.safetensors", "run_dir=no", cwd=tmp_path, expect=2)
    assert "its weights (model.name = diffusion) do not fit: they differ in network.conv_in" in refused.stderr
