"""Extractors: the shipped ones, files of weights, and what is said where one is missing or wrong."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffexp.commands.train_extractor import accuracy, train_classifier
from diffexp.config.registry import Component
from diffexp.config.schemas.extractors import EXTRACTORS
from diffexp.config.schemas.requests import ExtractorRequest
from diffexp.data.digits import load as load_digits
from diffexp.data.images import to_float
from diffexp.errors import UserError
from diffexp.evaluation.extractors import classifier, clip, digits_v1, dinov2, inception
from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.system.files import sha256
from tests.helpers.inception import write_random_inception
from tests.helpers.small import experiment


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


def test_the_shipped_digits_extractor_knows_digits():
    extractor = digits_v1.load()
    assert extractor.dim == 32
    assert accuracy(extractor.classifier, load_digits("test", 8, 1, 1.0), torch.device("cpu")) > 0.97


@pytest.mark.parametrize("name", ["digits_v1", "fashion_mnist_v1"])
def test_shipped_weights_are_small_and_have_their_digest(name):
    file = classifier.SHIPPED / f"{name}.safetensors"
    assert file.stat().st_size < 1_000_000
    assert file.with_name(f"{file.name}.sha256").read_text().split() == [sha256(file), file.name]
    extractor = EXTRACTORS.build(EXTRACTORS.schema(name)())
    assert extractor.identity["sha256"] == sha256(file)
    assert extractor.name == name
    assert not extractor.is_inception


def test_features_are_those_of_the_hidden_layer_in_float32_whatever_surrounds_them():
    extractor = digits_v1.load()
    images = load_digits("test", 8, 1, 1.0).images[:20]
    expected = extractor.classifier.features(to_float(images))
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(images).values
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    # 100 at once or one by one: up to the rounding of other convolution kernels
    one_by_one = torch.cat([extractor(image[None]).values for image in images])
    torch.testing.assert_close(one_by_one, expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_uint8_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        digits_v1.load()(torch.zeros(2, 1, 8, 8))


def test_other_images_than_the_classifiers_are_refused():
    with pytest.raises(UserError, match=r"digits_v1: expected images \(1, 8, 8\)"):
        digits_v1.load().check((3, 32, 32))


def test_a_damaged_file_is_told_by_its_digest(tmp_path):
    shutil.copytree(classifier.SHIPPED, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "digits_v1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"digits_v1\.safetensors is damaged: expected the sha256"):
        classifier.load(str(file))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_text("nothing")
    with pytest.raises(UserError, match="damaged or of another kind"):
        classifier.load(str(path))
    with pytest.raises(UserError, match=r"there is no file .*missing"):
        classifier.load(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../../x"}, "expected a name of letters"),
        ({"name": "inception"}, "the name of another extractor"),
        ({"classes": "7"}, "damaged or of another kind"),
        ({"features": None}, "damaged or of another kind"),
    ],
)
def test_a_file_that_describes_itself_wrongly_is_refused(tmp_path, changed, message):
    with classifier.safe_open(classifier.SHIPPED / "digits_v1.safetensors", framework="pt") as file:
        about = {**file.metadata(), "name": "mine", **changed}
    tensors = load_file(classifier.SHIPPED / "digits_v1.safetensors")
    about = {key: value for key, value in about.items() if value is not None}
    (tmp_path / "x.safetensors").write_bytes(classifier.save(tensors, about))
    with pytest.raises(UserError, match=message):
        classifier.load(str(tmp_path / "x.safetensors"))


@pytest.mark.slow
def test_a_classifier_is_trained_once_and_the_same_each_time(tmp_path):
    def train(out):
        wanted = ExtractorRequest(name="mine", features=8, steps=30, shift=1, out=str(tmp_path / out))
        return train_classifier(experiment().data, wanted)

    first, second = train("a.safetensors"), train("b.safetensors")
    assert sha256(first.path) != ""
    one, other = (classifier.load(str(each.path)) for each in (first, second))
    assert torch.equal(one.classifier.hidden.weight, other.classifier.hidden.weight)
    assert one.dim == 8
    assert first.train_accuracy > 0.5
    with pytest.raises(UserError, match=r"a\.safetensors, which exists"):
        train("a.safetensors")


def test_inception_under_other_weights_is_never_called_fid(inception_file):
    extractor = inception.load(str(inception_file))
    assert not extractor.is_inception
    assert extractor.name == f"inception_{sha256(inception_file)[:8]}"


@pytest.mark.slow
def test_grey_images_go_into_inception_as_rgb(inception_file):
    extractor = inception.load(str(inception_file))
    grey = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(extractor(grey).values, extractor(grey.repeat(1, 3, 1, 1)).values)
    assert extractor(grey).logits.shape == (2, 1008)


def test_inception_is_found_in_the_environment_and_in_torchs_cache(inception_file, tmp_path, monkeypatch):
    monkeypatch.setenv(inception.VARIABLE, str(inception_file))
    assert inception.load().identity["sha256"] == sha256(inception_file)
    monkeypatch.delenv(inception.VARIABLE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints/pt_inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    shutil.copy(inception_file, cached)
    assert inception.load().identity["sha256"] == sha256(inception_file)


def test_absent_inception_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"https://\S+-6726825d\.pth .*put it at \S+/checkpoints/weights-inception"):
        inception.load()
    with pytest.raises(UserError, match=r"extractor\.weights: there is no file /nowhere"):
        inception.load("/nowhere")


@pytest.mark.parametrize("content", ["text", "pickle", "other network"])
def test_a_file_that_is_not_inceptions_is_refused_and_never_run(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("nothing")
    elif content == "pickle":
        torch.save(_Runs(), path)
    else:
        torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UserError, match="damaged or not the Inception-v3"):
        inception.load(str(path))
    assert not _Runs.ran


class _Runs:
    ran = False

    def __reduce__(self):
        return exec, ("from tests.evaluation.test_extractors import _Runs; _Runs.ran = True",)


def test_clip_takes_openais_file_only(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no file .*clip-vit-b-32-40d3\S+\.pt\. Download it from https"):
        clip.load()
    path = tmp_path / "clip.pt"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="damaged or not OpenAI's vit-b-32"):
        clip.load(weights=str(path))


class _Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 1)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.Identity())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x):
        return x


class _TinyClip(nn.Module):
    """The names and shapes of OpenAI's file, for a network of one small layer."""

    def __init__(self, width=64, patch=8, grid=2, embedding=16):
        super().__init__()
        self.visual = nn.Module()
        self.visual.class_embedding = nn.Parameter(torch.randn(width))
        self.visual.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width))
        self.visual.proj = nn.Parameter(torch.randn(width, embedding))
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.visual.ln_pre = nn.LayerNorm(width)
        self.visual.transformer = nn.Module()
        self.visual.transformer.resblocks = nn.Sequential(_Block(width))
        self.visual.ln_post = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(8, embedding))

    def forward(self, x):
        return x


def test_clip_from_a_file_of_its_form(tmp_path, monkeypatch):
    path = tmp_path / "clip.pt"
    torch.jit.script(_TinyClip()).save(str(path))
    monkeypatch.setitem(clip.MODEL_METADATA["clip-vit-b-32"], "hash", sha256(path))
    extractor = clip.load(weights=str(path))
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    assert (extractor.name, extractor.dim) == ("clip_vit_b_32", 16)
    assert torch.equal(extractor(images).values, extractor.network(images.repeat(1, 3, 1, 1))[0])


def test_dinov2_says_what_it_needs_and_reads_it_from_torch_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"Download the code of .* to \S+facebookresearch_dinov2_main and https"):
        dinov2.load()
    code = tmp_path / "hub" / "facebookresearch_dinov2_main"
    weights = tmp_path / "hub" / "checkpoints" / "dinov2_vitb14_pretrain.pth"
    for folder in (code, weights.parent):
        folder.mkdir(parents=True)
    weights.write_bytes(b"weights")
    (code / "hubconf.py").write_text(
        "import torch\n"
        "def dinov2_vitb14():\n"
        "    return torch.nn.Sequential(torch.nn.AvgPool2d(112), torch.nn.Flatten())\n"
    )
    extractor = dinov2.load()
    assert (extractor.name, extractor.dim) == ("dinov2_vit_b_14", 12)
    assert extractor.identity["sha256"] == sha256(weights)


class Brightness(Extractor):
    """Mean and spread of the pixels: what a user might register."""

    def __init__(self, scale):
        super().__init__("brightness", 2, nn.Identity(), {"scale": scale})
        self.scale = scale

    def features(self, images):
        pixels = self.scale * images.float().flatten(1)
        return Features(torch.stack([pixels.mean(1), pixels.std(1)], dim=1))

    def check(self, image_shape):
        pass


@pytest.fixture
def brightness():
    """The extractor registered as a plugin would."""
    from dataclasses import dataclass

    from diffexp.config.schemas.extractors import ExtractorConfig

    @EXTRACTORS.register("brightness", lambda scale: Brightness(scale))
    @dataclass
    class BrightnessConfig(ExtractorConfig):
        name: str = "brightness"
        scale: float = 1.0

    assert issubclass(BrightnessConfig, Component)
    yield
    EXTRACTORS._schemas.pop("brightness")


def test_anyone_can_register_an_extractor(brightness):
    chosen = "score.extractor={'name': 'brightness', 'scale': 0.5}"
    wanted = experiment(chosen, "score.samplers={'ddim-50': None, 'a': {'name': 'ddpm'}}")
    extractor = EXTRACTORS.build(wanted.score.extractor)
    images = torch.full((3, 1, 4, 4), 100, dtype=torch.uint8)
    assert extractor(images).values.tolist() == [[50, 0]] * 3


def test_features_that_are_not_finite_are_told(brightness):
    with pytest.raises(UserError, match="brightness: expected finite features"):
        Brightness(float("nan"))(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def test_shipped_files_say_how_they_were_made():
    with_metadata = classifier.safe_open(classifier.SHIPPED / "digits_v1.safetensors", framework="pt")
    training = json.loads(with_metadata.metadata()["training"])
    assert training["command"][:4] == ["diffexp", "extractor", "digits", "name=digits_v1"]
