"""Import of models of other libraries."""

import inspect
import json
import shutil
from pathlib import Path

import diffusers as library
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from diffexp.checkpoints.load import build_trained, load_trained
from diffexp.commands.export import export
from diffexp.commands.import_ import import_model
from diffexp.config.load import load_experiment, load_export_request, load_import_request
from diffexp.config.schemas.networks import UNetConfig
from diffexp.config.schemas.schedules import SCHEDULES
from diffexp.convert.diffusers import BUILT_IN, _unet_config
from diffexp.convert.diffusers_reader import _SCHEDULERS, _schedule
from diffexp.errors import UserError
from diffexp.models.schedule import build_schedule
from tests.helpers.conversion import DATA, agree, awake, imported
from tests.helpers.ho import Ho
from tests.helpers.small import diffexp

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


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "pipeline"
    scheduler = DDPMScheduler(beta_schedule="linear", prediction_type="epsilon")
    DDPMPipeline(awake(UNet2DModel(**SHAPE)), scheduler).save_pretrained(folder)
    return folder


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
    ("scheduler", "message"),
    [
        (library.FlowMatchEulerDiscreteScheduler(), "got 'FlowMatchEulerDiscreteScheduler'"),
        (library.FlowMatchHeunDiscreteScheduler(), "got 'FlowMatchHeunDiscreteScheduler'"),
        (library.EDMEulerScheduler(), "got 'EDMEulerScheduler'"),
        (library.EDMDPMSolverMultistepScheduler(), "got 'EDMDPMSolverMultistepScheduler'"),
        (library.ScoreSdeVeScheduler(), "got 'ScoreSdeVeScheduler'"),
        (library.CMStochasticIterativeScheduler(), "got 'CMStochasticIterativeScheduler'"),
        (library.LCMScheduler(), "got 'LCMScheduler'"),
        (library.DPMSolverMultistepScheduler(use_flow_sigmas=True), "use_flow_sigmas: expected False, got True"),
        (library.UniPCMultistepScheduler(prediction_type="flow_prediction"), "v_prediction, got 'flow_prediction'"),
        (
            library.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
            "timestep_type: expected 'discrete', got 'continuous'",
        ),
        (library.DDPMScheduler(variance_type="learned"), "variance_type: expected 'learned_range', got 'learned'"),
        (None, "got None"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_scheduler_of_another_process_is_refused_with_the_reason(scheduler, message, theirs, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    if scheduler is None:
        (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    else:
        scheduler.save_pretrained(folder / "scheduler")
    with pytest.raises(UserError) as refused:
        imported(folder, tmp_path / "it.safetensors")
    assert message in str(refused.value)
    assert not (tmp_path / "it.safetensors").exists()


@pytest.mark.parametrize("name", _SCHEDULERS)
def test_a_scheduler_that_is_known_has_the_schedule_that_is_read_from_its_config(name):
    kind = getattr(library, name)
    if name == "DPMSolverSDEScheduler":
        kind = library.HeunDiscreteScheduler  # has the same defaults; itself it needs torchsde
    for keys in (
        {},
        {"num_train_timesteps": 50, "beta_schedule": "scaled_linear", "beta_end": 0.3},
        {"num_train_timesteps": 50, "beta_schedule": "squaredcos_cap_v2"},
    ):
        model = _schedule({"_class_name": name, **keys}, Path("scheduler_config.json"))
        schedule = SCHEDULES.schema(model["schedule"]["name"])(**model["schedule"])
        ours = build_schedule(schedule, model["timesteps"]).alphas_cumprod
        torch.testing.assert_close(kind.from_config(keys).alphas_cumprod.double(), ours, rtol=1e-3, atol=1e-7)


def test_every_setting_of_their_network_is_looked_at():
    known = {*BUILT_IN, *_unet_config(UNetConfig(), 32, 3)}
    settings = {*inspect.signature(UNet2DModel.__init__).parameters} - {"self", "num_train_timesteps"}
    assert settings <= known


def changed(folder, file, **keys):
    content = json.loads((folder / file).read_text())
    content |= keys
    (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        (
            "model_index.json",
            {"vae": ["diffusers", "AutoencoderKL"]},
            "vae: expected no such part, got 'AutoencoderKL'",
        ),
        ("model_index.json", {"unet": ["diffusers", "UNet1DModel"]}, "unet: expected 'UNet2DModel', got 'UNet1DModel'"),
        ("model_index.json", {"unet": "absent"}, "unet: expected 'UNet2DModel', got None"),
        ("model_index.json", {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "got 'EDMEulerScheduler'"),
        (
            "unet/config.json",
            {"_class_name": "UNet2DConditionModel"},
            "_class_name: expected 'UNet2DModel', got 'UNet2DConditionModel'",
        ),
        ("unet/config.json", {"_class_name": "absent"}, "_class_name: expected 'UNet2DModel', got None"),
    ],
)
def test_a_pipeline_of_other_parts_is_refused(file, keys, message, theirs, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    changed(folder, file, **keys, **({"safety_checker": [None, None]} if file == "model_index.json" else {}))
    with pytest.raises(UserError) as refused:
        imported(folder, tmp_path / "it.safetensors")
    assert message in str(refused.value)
    assert "safety_checker" not in str(refused.value)


@pytest.mark.parametrize("parts", [("unet",), ("scheduler",), ("unet", "scheduler")])
@pytest.mark.parametrize("index", [True, False])
def test_parts_that_are_in_the_pipelines_own_folder_are_read_as_diffusers_reads_them(parts, index, theirs, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    changed(folder, "scheduler/scheduler_config.json", num_train_timesteps=77)
    for part in parts:
        for file in (folder / part).iterdir():
            file.rename(folder / file.name)
        (folder / part).rmdir()
    if index:
        assert DDPMPipeline.from_pretrained(folder).scheduler.config.num_train_timesteps == 77
    else:
        (folder / "model_index.json").unlink()
    if not index and "unet" not in parts:
        with pytest.raises(UserError, match=r"without model_index\.json and config\.json"):
            imported(folder, tmp_path / "it.safetensors")
        return
    out, _ = imported(folder, tmp_path / "it.safetensors")
    assert load_trained(out).experiment.model.timesteps == 77


def test_a_pipeline_without_a_scheduler_is_refused_and_a_bare_network_warned_of(theirs, tmp_path, caplog):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(UserError, match=r"scheduler_config\.json: cannot be read"):
        imported(folder, tmp_path / "it.safetensors")
    imported(folder / "unet", tmp_path / "it.safetensors", "model.prediction=v")
    assert "assumes its defaults for model.timesteps, model.schedule. Give these keys" in caplog.text
    caplog.clear()
    keys = ["model.prediction=v", "model.timesteps=50", "model.schedule={name: cosine}"]
    imported(folder / "unet", tmp_path / "told.safetensors", *keys)
    imported(theirs, tmp_path / "pipeline.safetensors")
    assert not caplog.text


@pytest.mark.parametrize(("size", "attended"), [(16, (16,)), (32, (16,)), (64, (16,))])
def test_the_size_of_the_images_is_where_the_authors_attend_at_16_pixels(size, attended, tmp_path):
    torch.save(awake(Ho(multipliers=(1, 1, 2), size=size, attended=attended)).state_dict(), tmp_path / "model.ckpt")
    out, _ = imported(tmp_path / "model.ckpt", tmp_path / "it.safetensors")
    data, network = load_trained(out).experiment.data, load_trained(out).experiment.model.network
    assert (data.image_size, network.attention_resolutions) == (size, [16])


def test_without_attention_the_size_of_the_images_must_be_given(tmp_path):
    torch.save(Ho(attended=()).state_dict(), tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="image_size: expected an integer"):
        imported(tmp_path / "model.ckpt", tmp_path / "it.safetensors")
    imported(tmp_path / "model.ckpt", tmp_path / "it.safetensors", "image_size=16")


def test_weights_that_are_not_finite_are_found_at_the_import(theirs, tmp_path):
    folder = tmp_path / "pipeline"
    shutil.copytree(theirs, folder)
    network = UNet2DModel.from_pretrained(folder / "unet")
    network.conv_in.weight.data[0, 0, 0, 0] = float("nan")
    network.save_pretrained(folder / "unet")
    with pytest.raises(UserError, match=r"expected finite weights, got NaN or infinity in network\.conv_in\.weight"):
        imported(folder, tmp_path / "it.safetensors")
    assert not (tmp_path / "it.safetensors").exists()


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
        ({"act_fn": "gelu"}, "act_fn: expected 'silu', got 'gelu'"),
        ({"attention_head_dim": 8}, "attention_head_dim: expected None (one head), got 8"),
        ({"freq_shift": 0, "norm_eps": 1e-5}, "freq_shift: expected 1, got 0.\n  norm_eps: expected 1e-06, got 1e-05"),
        ({"block_out_channels": [32, 48, 64]}, "block_out_channels: expected multiples of the first, got [32, 48, 64]"),
        ({"up_block_types": ["UpBlock2D"] * 3}, "down_block_types: expected"),
        ({"layers_per_block": 1}, "expected the network of its config, got another: no place for"),
        ({"layers_per_block": 3}, "expected the tensor down_blocks.0.resnets.2"),
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
        ("PIPELINE", [], "data.name: required key is missing"),
        ("nowhere", DATA, "nowhere: expected a file or folder, got none"),
        ("empty", DATA, "got one without model_index.json and config.json"),
        ("README.md", DATA, "cannot be read as a PyTorch checkpoint"),
        ("PIPELINE", [*DATA, "out=it.pt"], "out: expected a name that ends in .safetensors, got it.pt"),
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
        "training.max_steps=1",
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
