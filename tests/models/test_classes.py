"""Models with class labels."""

import pytest
import torch
from diffusers import UNet2DModel

from diffexp.config.load import load_evaluate_request, load_sample_request
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import DDIMConfig, HeunConfig
from diffexp.convert import diffusers, unet_names
from diffexp.diffusion import schedules
from diffexp.diffusion.schedules import Schedule
from diffexp.errors import UserError
from diffexp.models.build import build_model
from diffexp.models.diffusion import DiffusionModule
from tests.helpers.small import experiment, fit
from tests.models.test_diffusion import trainer


class Named(torch.nn.Module):
    """ε̂ tells which class it was asked for; counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, labels):
        self.calls += 1
        return x * 0 + labels.view(-1, 1, 1, 1) / 10


def module(**settings):
    return DiffusionModule((1, 2, 2), Named(), Schedule(schedules.linear(100, rescale="1000/T")), classes=3, **settings)


def first_epsilon(sampler, indices=range(5)):
    """x̂_0 of the first step gives ε̂ away."""
    model, seen = module(), []
    original = model.network.forward
    model.network.forward = lambda x, t, labels: seen.append(labels.tolist()) or original(x, t, labels)
    model.sample(sampler, indices, 0)
    return seen


def test_image_i_has_class_i_mod_classes_or_the_one_that_is_wanted():
    assert first_epsilon(DDIMConfig(steps=1), range(4, 9)) == [[1, 2, 0, 1, 2]]
    assert first_epsilon(DDIMConfig(steps=1, class_label=2)) == [[2] * 5]
    assert first_epsilon(DDIMConfig(steps=1, guidance_scale=0.0)) == [[3] * 5]
    assert first_epsilon(DDIMConfig(steps=1, guidance_scale=3.0)) == [[0, 1, 2, 0, 1], [3] * 5]


@pytest.mark.parametrize(
    "sampler",
    [
        DDIMConfig(steps=10),
        DDIMConfig(steps=10, guidance_scale=2.0),
        DDIMConfig(steps=7, guidance_scale=2.0, guidance_interval=[0.2, 0.6]),
        DDIMConfig(steps=10, guidance_scale=0.0),
        HeunConfig(steps=6, guidance_scale=2.0),
        HeunConfig(steps=6, guidance_scale=2.0, guidance_interval=[0.3, 1.0]),
        HeunConfig(steps=6, guidance_scale=2.0, guidance_interval=[0.0, 0.7]),
    ],
)
def test_network_calls_are_those_that_are_made(sampler):
    model, told = module(), []
    model.sample(sampler, range(2), 0, on_call=lambda: told.append(1))
    assert model.network.calls == len(told) == model.network_calls(sampler)


def test_samples_with_a_class_do_not_depend_on_the_batch():
    model = build_model(experiment("model.classes=10"))
    torch.manual_seed(0)
    for parameter in model.network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    sampler = DDIMConfig(steps=3, guidance_scale=2.0)
    whole = model.sample(sampler, range(6), 0)
    # from x_T on, √ᾱ = 0.045 there magnifies the rounding of a batch of another size
    torch.testing.assert_close(model.sample(sampler, [4, 1], 0), whole[[4, 1]], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.sample(DDIMConfig(steps=3, class_label=7), [4], 0), whole[[4]])


def test_labels_are_withheld_as_often_as_is_said_and_wherever_they_are():
    def drawn(size, **spread):
        model = module(class_dropout_prob=0.25)
        model.seed = 3
        model._trainer = trainer(**spread)
        model._step, model._micro_batch = 5, spread.pop("micro", 0)
        return model

    whole = drawn(4000).sample_training_noise(torch.zeros(4000, 1, 2, 2), torch.arange(4000) % 3)
    assert (whole.labels == 3).double().mean().item() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4000) ** 0.5)
    kept = whole.labels != 3
    assert torch.equal(whole.labels[kept], (torch.arange(4000) % 3)[kept])
    parts = []
    for rank in range(2):
        model = drawn(2000, world_size=2, global_rank=rank)
        parts.append(
            model.sample_training_noise(
                torch.zeros(2000, 1, 2, 2), (torch.arange(4000) % 3)[rank * 2000 :][:2000]
            ).labels
        )
    assert torch.equal(torch.cat(parts), whole.labels)


def test_without_classes_nothing_has_changed():
    assert not [name for name in build_model(experiment()).state_dict() if "label" in name]
    before = DiffusionModule((1, 2, 2), torch.nn.Identity(), Schedule(schedules.linear(100, rescale="1000/T")))
    before._trainer, before._step = trainer(), 3
    with_classes = module()
    with_classes._trainer, with_classes._step = trainer(), 3
    x0 = torch.zeros(8, 1, 2, 2)
    plain, labelled = (
        before.sample_training_noise(x0),
        with_classes.sample_training_noise(x0, torch.zeros(8, dtype=torch.long)),
    )
    assert torch.equal(plain.t, labelled.t)
    assert torch.equal(plain.noise, labelled.noise)


def test_the_network_with_labels_equals_diffusers():
    config = experiment("model.classes=10", "data.image_size=16", "model.network.attention_resolutions=[8]")
    ours = build_model(config).network.eval()
    network = config.model.network
    theirs = UNet2DModel(
        **{key: value for key, value in diffusers._unet_config(network, 16, 1).items() if key != "num_class_embeds"},
        num_class_embeds=11,
    ).eval()
    for parameter in ours.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    weights = {f"{unet_names.NETWORK}{name}": value for name, value in ours.state_dict().items()}
    label = weights.pop(f"{unet_names.NETWORK}label.weight")
    loaded = unet_names.to_theirs(weights, diffusers.names(network), network, 16)
    theirs.load_state_dict({**loaded, "class_embedding.weight": label})
    x, t, labels = torch.randn(3, 1, 16, 16), torch.tensor([0, 10, 19]), torch.tensor([2, 10, 9])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, labels), theirs(x, t, labels).sample, rtol=1e-5, atol=1e-5)


def test_a_run_with_labels_trains_and_another_number_of_classes_is_refused(tmp_path):
    fit(tmp_path / "run", "model.classes=10", "sample_grid.samplers.ddpm.guidance_scale=2")
    with pytest.raises(UserError, match=r"model\.classes: expected 10, as in the data, or null, got 9"):
        fit(tmp_path / "other", "model.classes=9")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["sample_grid.samplers.ddpm.guidance_scale=2"],
            "guidance_scale: expected a model trained with model.classes",
        ),
        (["sample_grid.samplers.ddpm.class_label=2"], "class_label: expected a model trained with model.classes"),
        (["model.classes=3", "sample_grid.samplers.ddpm.class_label=3"], "expected an integer < model.classes = 3"),
        (["model.classes=3", "sample_grid.samplers.ddpm.guidance_interval=[0.5, 0.1]"], "the lower first"),
    ],
)
def test_keys_that_do_not_fit_the_model_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        experiment(*overrides)


def test_a_label_tells_class_and_guidance():
    sampler = DDIMConfig(class_label=3, guidance_scale=2.5, guidance_interval=[0.2, 0.8])
    assert sampler.label(20) == "ddim-20-eta0-class3-cfg2.5_0.2_0.8"


def test_without_a_null_label_nothing_may_ask_for_no_class():
    classes = ["model.classes=10", "model.class_dropout_prob=0"]
    for guidance in (0, 2):
        with pytest.raises(
            UserError, match=rf"guidance_scale: expected 1, got {guidance}: with model\.class_dropout_prob = 0"
        ):
            experiment(*classes, f"sample_grid.samplers.ddpm.guidance_scale={guidance}")
        with pytest.raises(UserError, match=r"sampler\.guidance_scale: expected 1"):
            load_sample_request([f"sampler.guidance_scale={guidance}"], experiment(*classes))
    with pytest.raises(UserError, match=r"metrics: expected scores, got bpd"):
        load_evaluate_request(None, ["metrics=bpd", "extractor.name=digits_v1"], experiment(*classes))
    load_evaluate_request(None, ["metrics=bpd", "extractor.name=digits_v1"], experiment("model.classes=10"))
    experiment(*classes, "sample_grid.samplers.ddpm.class_label=3")


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp", "unipc", "heun"])
def test_no_sampler_asks_for_no_class_where_none_was_trained(name):
    classes = ["model.classes=10", "model.class_dropout_prob=0"]
    few = f"{{name: {name}, guidance_scale: 2, guidance_interval: [0.2, 0.4]}}"
    with pytest.raises(UserError, match=r"samplers\.it\.guidance_scale: expected 1, got 2"):
        load_evaluate_request(None, [f"samplers={{it: {few}}}"], experiment(*classes))
    score = f"score={{every: 4, count: 20, extractor: {{name: digits_v1}}, samplers: {{it: {few}}}}}"
    with pytest.raises(UserError, match=r"score\.samplers\.it\.guidance_scale: expected 1, got 2"):
        experiment(*classes, score)
    load_evaluate_request(None, ["metrics=bpd"], experiment("model.class_dropout_prob=0"))  # it has no labels at all


def test_a_module_of_ones_own_without_a_null_label_is_asked_for_classes_alone():
    model, images = module(class_dropout_prob=0.0), torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    model.sample(DDIMConfig(steps=1), range(2), 0)
    for guidance in (0.0, 2.0):
        with pytest.raises(
            UserError, match=f"guidance_scale: expected 1, got {guidance:g}: class_dropout_prob is 0, so the null label"
        ):
            model.sample(DDIMConfig(steps=1, guidance_scale=guidance), range(2), 0)
    with pytest.raises(UserError, match="bits per dimension: expected a model trained with the null label"):
        model.bits_per_dim(images, [0], 0, LikelihoodConfig())


def test_a_model_of_classes_must_see_some():
    with pytest.raises(UserError, match=r"class_dropout_prob: expected a number < 1, got 1: no class would be trained"):
        experiment("model.classes=10", "model.class_dropout_prob=1")
