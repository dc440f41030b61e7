import pytest
import yaml

from diffexp.config.load import load_evaluate_request, load_experiment, load_sample_request
from diffexp.config.merge import as_dict, as_yaml, differing
from diffexp.config.schemas.networks import UNetConfig
from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig, PriorConfig
from diffexp.config.schemas.schedules import CosineScheduleConfig, LinearScheduleConfig
from diffexp.config.sources import shipped_configs
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from tests.helpers.own_config import small, write

READY = [*sorted(shipped_configs().glob("*.yaml")), *sorted(shipped_configs().glob("families/*.yaml"))]


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_every_ready_config_is_right(file):
    if file.stem == "base":
        with pytest.raises(UserError, match=r"data\.name: required key is missing\. Use one of cifar10, digits"):
            load_experiment(str(file))
        return
    needed = ["data.path=anywhere"] if file.stem == "image_folder" else []
    if (file.parent.name, file.stem) == ("families", "digits"):
        needed = ["model.name=gan"]  # it is one that each family's is laid over
    ready = str(file.relative_to(shipped_configs()).with_suffix(""))
    assert load_experiment(ready, needed).name == file.stem
    assert load_experiment(str(file), needed) == load_experiment(f"configs/{ready}.yaml", needed)


def test_the_table_of_the_ddim_paper():
    experiment = load_experiment("digits")
    request = load_evaluate_request("evaluate/ddim_table", ["count=700"], experiment)
    assert [(each.eta, each.sigma_hat) for each in request.samplers.values() if each is not None] == [
        *((eta, False) for eta in (0, 0.2, 0.5, 1)),
        (1, True),
    ]
    assert request.steps == [10, 20, 50, 100, None]
    assert request.count == 700
    assert request.extractor == experiment.score.extractor


@pytest.mark.parametrize("section", ["sample_grid", "score"])
def test_keys_of_a_section_that_was_null_bring_its_defaults_back(tmp_path, section):
    experiment = load_experiment(small(tmp_path), [f"{section}=null", f"{section}.count=2077"])
    assert getattr(experiment, section).count == 2077
    assert getattr(experiment, section).seed == 0


def test_the_papers_recipe():
    """Ho et al. 2020, section 4 and appendix B."""
    paper = load_experiment("cifar10_ddpm")
    assert (paper.training.max_steps, paper.training.batch_size, paper.training.gradient_clip_val) == (
        800_000,
        128,
        1.0,
    )
    assert (paper.optim.lr, paper.optim.warmup_steps, paper.optim.decay) == (2e-4, 5_000, "none")
    assert paper.model.timesteps == 1000
    assert paper.model.schedule == LinearScheduleConfig(beta_start=1e-4, beta_end=0.02)
    assert 0.5 ** (128 / paper.ema.half_life) == pytest.approx(0.9999, abs=1e-10)
    assert paper.ema.rampup is None
    assert paper.data.random_flip
    assert paper.optim.weight_decay == 0
    assert paper.model.network == UNetConfig(
        base_channels=128,
        channel_multipliers=[1, 2, 2, 2],
        num_res_blocks=2,
        attention_resolutions=[16],
        dropout=0.1,
        norm_num_groups=32,
        initialization="ddpm",
    )
    assert paper.sample_grid.samplers["ddpm"] == DDPMConfig(variance="fixed_large")
    theirs = DDIMConfig(steps=50, spacing="quadratic-0.8", clip_sample=False)  # the DDIM authors' code
    assert paper.sample_grid.samplers["ddim-50"] == paper.score.samplers["ddim-50"] == theirs


def test_later_layers_win(tmp_path):
    write(tmp_path / "one.yaml", "data: {name: digits}\nseed: 1\nname: one\noptim: {lr: 0.1, eps: 0.5}")
    write(tmp_path / "two.yaml", "seed: 2\noptim: {lr: 0.2}")
    path = write(
        tmp_path / "own.yaml",
        "base: [one.yaml, two.yaml]\nmodel: {network: {channel_multipliers: [1], attention_resolutions: []}}",
    )
    experiment = load_experiment(path, ["name=last"])
    assert (experiment.name, experiment.seed, experiment.optim.lr, experiment.optim.eps) == ("last", 2, 0.2, 0.5)


def test_a_base_in_another_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    small(tmp_path)
    assert load_experiment(write(tmp_path / "deep" / "x.yaml", "base: ../own.yaml")).data.name == "digits"


def test_a_ready_config_as_base(tmp_path):
    own = load_experiment(write(tmp_path / "x.yaml", "base: [digits]\nname: own"))
    assert own.name == "own"
    assert own.model == load_experiment("digits").model


def test_a_choice_starts_from_its_own_defaults_and_keeps_what_was_given(tmp_path):
    path = small(tmp_path, "model: {schedule: {name: linear, beta_end: 0.03, beta_start: 0.001}}")
    assert load_experiment(path).model.schedule == LinearScheduleConfig(beta_start=0.001, beta_end=0.03)
    assert load_experiment(path, ["model.schedule.name=cosine"]).model.schedule == CosineScheduleConfig()
    kept = load_experiment(path, ["model.schedule.name=scaled_linear"]).model.schedule
    assert (kept.name, kept.beta_end) == ("scaled_linear", 0.03)


def test_a_text_for_a_component_is_its_name(tmp_path):
    linear = load_experiment(small(tmp_path, "model: {schedule: linear}"))
    assert linear.model.schedule == LinearScheduleConfig()
    given = ["model.schedule.beta_end=0.03", "model.schedule=linear"]
    for overrides in (given, given[::-1]):
        changed = load_experiment(small(tmp_path, "model: {schedule: cosine}"), overrides)
        assert changed.model.schedule == LinearScheduleConfig(beta_end=0.03)
    trial = Trial("schedules", {"model": {"schedule": "sigmoid"}, "score": {"extractor": "digits_v1"}})
    tried = load_experiment("digits", [], trial)
    assert (tried.model.schedule.name, tried.name) == ("sigmoid", "schedule=sigmoid,extractor=digits_v1")
    assert load_experiment("digits", ["sample_grid.samplers.few=heun"]).sample_grid.samplers["few"].name == "heun"
    assert load_sample_request(["sampler=ddpm", "sampler.variance=none"], linear).sampler == DDPMConfig(variance="none")
    table = load_evaluate_request(None, ["samplers={a: ddim, b: ddpm}", "extractor=digits_v1"], linear)
    assert (table.samplers["a"], table.samplers["b"]) == (DDIMConfig(), DDPMConfig())
    assert load_experiment("digits", ["model=autoregressive"]).model.network.name == "transformer"


def test_a_key_of_a_replaced_choice_is_an_error_when_it_is_given_for_the_new_one(tmp_path):
    with pytest.raises(UserError, match=r"command line: model\.schedule\.beta_end: this key belongs to"):
        load_experiment(small(tmp_path), ["model.schedule.name=cosine", "model.schedule.beta_end=0.1"])


def test_named_samplers_are_added_changed_and_removed(tmp_path):
    overrides = [
        "sample_grid.samplers.few={'name': 'ddim', 'steps': 5, 'eta': 0.5}",
        "sample_grid.samplers.ddim-50.steps=20",
        "sample_grid.samplers.ddpm=None",
    ]
    samplers = load_experiment(small(tmp_path), overrides).sample_grid.samplers
    assert samplers == {"ddpm": None, "ddim-50": DDIMConfig(steps=20), "few": DDIMConfig(steps=5, eta=0.5)}
    assert load_experiment(small(tmp_path)).sample_grid.samplers["ddpm"] == DDPMConfig()


def test_values_as_wandbs_agent_passes_them(tmp_path):
    experiment = load_experiment(
        small(tmp_path),
        ["optim={'lr': 0.1, 'betas': [0.5, 0.9]}", "data.random_flip=True", "wandb.group=None", "training.max_steps=3"],
    )
    assert (experiment.optim.lr, experiment.optim.betas, experiment.optim.eps) == (0.1, [0.5, 0.9], 1e-8)
    assert experiment.data.random_flip is True
    assert experiment.wandb.group is None


def test_the_resolved_config_is_the_same_config(tmp_path):
    experiment = load_experiment(small(tmp_path), ["model.schedule.name=sigmoid", "seed=7"])
    resolved = write(tmp_path / "config.yaml", as_yaml(experiment))
    assert load_experiment(resolved) == experiment
    assert load_experiment(str(tmp_path)) == experiment  # as a run's directory


def test_diff_finds_just_what_differs(tmp_path):
    one = load_experiment(small(tmp_path))
    two = load_experiment(small(tmp_path), ["optim.lr=0.5", "model.schedule.name=cosine"])
    assert list(differing(as_dict(one), as_dict(two))) == [
        ("model.schedule.name", "linear", "cosine"),
        ("model.schedule.beta_start", 1e-4, "???"),
        ("model.schedule.beta_end", 0.02, "???"),
        ("model.schedule.rescale", "none", "???"),
        ("model.schedule.s", "???", 0.008),
        ("model.schedule.max_beta", "???", 0.999),
        ("optim.lr", 2e-4, 0.5),
    ]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_means_nothing_to_a_choice(tmp_path, order):
    overrides = ["model.schedule.s=0.5", "model.schedule.name=linear"][::order]
    with pytest.raises(UserError, match=r"model\.schedule\.s: this key belongs to"):
        load_experiment(small(tmp_path, "model: {schedule: {name: cosine}}"), overrides)


def test_texts_stay_as_written_and_whole_floats_are_whole_numbers(tmp_path):
    overrides = ["name=2024-07-01", "wandb.project=007", "wandb.group=on", "training.max_steps=1e5"]
    experiment = load_experiment(small(tmp_path), overrides)
    assert (experiment.name, experiment.wandb.project, experiment.wandb.group) == ("2024-07-01", "007", "on")
    assert experiment.training.max_steps == 100_000


def test_a_folder_does_not_hide_a_ready_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_experiment("digits").name == "digits"


def test_diff_of_a_section_that_one_lacks(tmp_path):
    one, two = (as_dict(load_experiment(small(tmp_path), more)) for more in ([], ["sample_grid=null"]))
    ((key, before, after),) = differing(one, two)
    assert (key, after) == ("sample_grid", None)
    assert before["count"] == 64


def test_yaml_floats_without_a_dot_are_numbers(tmp_path):
    assert load_experiment(small(tmp_path, "optim: {lr: 1e-4}")).optim.lr == 1e-4
    assert yaml.safe_load("1e-4") == "1e-4"  # what PyYAML alone would have made of it


def test_a_section_that_is_null_by_default_stays_so_until_a_key_of_it_is_given():
    assert load_experiment("mnist").score is None
    assert load_experiment("mnist", ["score.count=2077"]).score.count == 2077


def test_a_swept_base_is_laid_over_the_command_s_config():
    trial = Trial("families", {"base": "families/digits_gan", "optim": {"lr": 0.25}})
    found = load_experiment("families/digits", ["training.max_steps=7"], trial)
    assert (found.model.name, found.training.max_steps, found.optim.lr, found.optim.betas) == (
        "gan",
        7,
        0.25,
        [0.0, 0.99],
    )
    assert found.name == trial.name == "base=families-digits_gan,lr=0.25"
    assert found.score.samplers == {"prior": PriorConfig()}
    for base, message in (
        ("families/digits_gans", "families/digits_gans: no such config"),
        (3, "base: expected the name of one config, got 3"),
    ):
        with pytest.raises(UserError, match=message):
            load_experiment("families/digits", [], Trial("families", {"base": base}))


def test_without_samplers_a_config_has_those_usual_for_its_model(tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text("data: {name: digits}\nmodel: {name: gan}\nscore: {extractor: {name: digits_v1}}\n")
    found = load_experiment(str(plain))
    assert found.sample_grid.samplers == found.score.samplers == {"prior": PriorConfig()}
    assert load_experiment(str(plain), ["score=null"]).score is None
    more = load_experiment(str(plain), ["score.samplers.cold={'name': 'prior', 'temperature': 0.5}"])
    assert list(more.score.samplers) == ["prior", "cold"]
    diffusion = load_experiment(str(plain), ["model={'name': 'diffusion', 'network': {'attention_resolutions': [4]}}"])
    assert list(diffusion.sample_grid.samplers) == ["ddim-50", "ddpm"]
    assert list(diffusion.score.samplers) == ["ddim-50"]


def test_a_request_takes_the_sampler_usual_for_the_model():
    gan = load_experiment("families/digits_gan")
    assert load_sample_request([], gan).sampler == PriorConfig()
    assert load_evaluate_request(None, [], gan).samplers == {"prior": PriorConfig()}
    with pytest.raises(UserError, match=r"samplers\.eta-0\.name: expected prior for model\.name = gan, got ddim"):
        load_evaluate_request("evaluate/ddim_table", [], gan)
    short = load_experiment("families/digits_diffusion", ["model.timesteps=20", "score=null", "sample_grid=null"])
    assert load_sample_request([], short).sampler == DDIMConfig(steps=20)
