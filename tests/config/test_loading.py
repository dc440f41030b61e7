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


def write(path, text):
    path.write_text(text)
    return str(path)


def small(tmp_path, text=""):
    base = "data: {name: digits}\nmodel: {network: {channel_multipliers: [1, 2], attention_resolutions: [4]}}\n"
    write(tmp_path / "base.yaml", base)
    return write(tmp_path / "own.yaml", f"base: [base.yaml]\n{text}")


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


BAD_OVERRIDES = [
    ("optim.lrr=3", r"command line: optim\.lrr: unknown key\. Did you mean optim\.lr\?"),
    ("lr=3", r"command line: lr: unknown key\. Did you mean optim\.lr\?"),
    ("optim.lr=abc", r"command line: optim\.lr: expected a number, got 'abc'"),
    ("optim.lr=None", r"optim\.lr: expected a number, got null"),
    ("optim.lr.x=3", r"optim\.lr\.x: expected a number"),
    ("optim.lr=-1", r"optim\.lr: expected a number > 0, got -1"),
    ("optim.lr=nan", r"optim\.lr: expected a finite number, got nan"),
    ("optim.lr=1e999", r"optim\.lr: expected a finite number, got inf"),
    ("optim.betas=[0.9]", r"optim\.betas: expected two numbers, got 1"),
    ("optim.betas=[0.9, 1]", r"optim\.betas: expected a number >= 0 and < 1, got 1"),
    ("optim=3", r"optim: expected a mapping of keys to values, got 3"),
    ("seed=1.5", r"seed: expected an integer, got 1\.5"),
    ("data.random_flip=maybe", r"data\.random_flip: expected true or false, got 'maybe'"),
    ("data=5", r"data: expected the name of a known dataset \(cifar10, .*\), or a mapping of its keys, got 5"),
    ("data.name=digit", r"data\.name: expected a known dataset \(.*\), got 'digit'\. Did you mean 'digits'\?"),
    ("data.name=[digits]", r"data\.name: expected a known dataset \(.*\), got \['digits'\]"),
    ("data.name=image_folder", r"data\.path: required key is missing"),
    ("data.image_size=4", r"data\.image_size: expected an integer >= 8, the size of the digits images"),
    ("data.channels=3", r"data\.channels: expected 1, as the digits images have, got 3"),
    (
        "model.schedule.name=liner",
        r"model\.schedule\.name: expected a known schedule \(.*\), got 'liner'\. Did you mean 'linear'\?",
    ),
    ("model.schedule=cosin", r"model\.schedule\.name: expected a known schedule \(.*\), got 'cosin'\. Did you mean"),
    ("model.schedule=5", r"model\.schedule: expected the name of a known schedule \(.*\), or a mapping .*, got 5"),
    ("sample_grid.samplers=ddim", r"samplers: expected a mapping of names to samplers, such as {mine: ddim}, got"),
    ("ema=false", r"ema: expected a mapping of keys to values or null, got False"),
    ("loggers=csv", r"loggers: expected a list, each element a string, got 'csv'\. Write \[csv\]\."),
    ("model.schedule.beta_end=1e-5", r"model\.schedule\.beta_end: expected a number >= beta_start"),
    ("model.schedule.rescale=yes please", r"model\.schedule\.rescale: expected one of none, 1000/T, got"),
    (
        "model.prediction=noise",
        r"model\.prediction: expected one of epsilon, x0, v, scaled_epsilon, step_epsilon, got",
    ),
    ("model.timesteps=0", r"model\.timesteps: expected an integer >= 1 and <= 1000000, got 0"),
    ("model.network.channel_multipliers=[]", r"channel_multipliers: expected at least one level, got none"),
    (
        "model.network.channel_multipliers=[1,1,1,1,1]",
        r"expected data\.image_size to be divisible by 16 for 5 levels, got 8",
    ),
    ("model.network.channel_multipliers=[1,2.5]", r"expected a list, each element an integer, got \[1, 2\.5\]"),
    ("model.network.attention_resolutions=[16]", r"expected heights of levels \(\[8, 4\]\), got 16"),
    ("model.network.norm_num_groups=3", r"norm_num_groups: expected a divisor of a level's 128 channels, got 3"),
    (
        "training.batch_size=129 training.devices=2",
        r"batch_size: expected a multiple of devices · num_nodes · accumulate_grad_batches = 2, got 129",
    ),
    ("training.precision=fp8", r"training\.precision: expected one of auto, 32-true"),
    (
        "sample_grid.samplers.x.steps=3",
        r"sample_grid\.samplers\.x\.name: required key is missing\. Use one of ancestral, ddim, ",
    ),
    ("sample_grid.samplers.ddim-50.steps=2000", r"expected an integer <= model\.timesteps = 1000, got 2000"),
    ("sample_grid.samplers.ddim-50.eta=2", r"eta: expected a number >= 0 and <= 1, got 2"),
    ("sample_grid.samplers.ddim-50.sigma_hat=true", r"eta: expected 1 with sigma_hat: true"),
    ("sample_grid.samplers={'a/b': {'name': 'ddim'}}", r"\(they name files\), got 'a/b'"),
    ("sample_grid.weights=ema training.compile=false ema=null", r"sample_grid\.weights: expected raw when ema"),
    (
        "loggers=[csv,comet]",
        r"loggers: expected a known logger \(csv, mlflow, tensorboard, trackio, wandb\), got 'comet'",
    ),
    ("training.steps=3", r"training\.steps: this key was renamed\. Write training\.max_steps\."),
    (
        "sample_grid.samplers.ddim-50.clip=false",
        r"was renamed\. Write sample_grid\.samplers\.ddim-50\.clip_sample\.",
    ),
    ("name=a/b", r"name: expected a directory name .*, got 'a/b'"),
    ("name=${oc.env:HOME}", r"command line: name: expected a value, got a reference"),
    ("name=\\${x}", r"got a reference"),
    ("wandb.tags=[[1]]", r"wandb\.tags: expected a list, each element a string, got \[\[1\]\]"),
    ("model.network.channel_multipliers=[{'a': 1}]", r"expected a list, each element an integer"),
    ("seed=&a [*a]", r"seed: expected a YAML or Python value, got '&a \[\*a\]'"),
    (
        "model.schedule.rescale=1000/T model.timesteps=10",
        r"rescale: expected a last β < 1, got 2 at model\.timesteps = 10",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_OVERRIDES, ids=[bad for bad, _ in BAD_OVERRIDES])
def test_each_mistake_is_named_with_its_source_and_key(tmp_path, overrides, message):
    split = overrides.split(" ") if " training" in overrides or " model" in overrides else [overrides]
    with pytest.raises(UserError, match=message):
        load_experiment(small(tmp_path), split)


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


def test_all_out_of_range_values_are_named_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        load_experiment(small(tmp_path, "training: {max_steps: 0}"), ["optim.lr=-1"])
    assert f"{tmp_path / 'own.yaml'}: training.max_steps: expected an integer >= 1" in str(error.value)
    assert "command line: optim.lr: expected a number > 0" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "cannot be read as YAML"),
        ("- 1\n- 2", r"expected a mapping of keys to values, got \[1, 2\]"),
        ("just text", r"own\.yaml: expected a mapping of keys to values, got 'just text'"),
        ("1: 2", "1: unknown key"),
        ("optim: {1: 2}", r"optim\.1: unknown key"),
        ("seed: 1\nseed: 2", "duplicate key"),
        ("base: [nowhere.yaml]", "expected a file or a ready config, got 'nowhere.yaml'"),
        ("base: {a: 1}", "expected a list of paths"),
        ("base: [own.yaml]", "expected another file, got the file itself"),
        ("x: !!python/object/apply:os.system [true]", "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
        ("5", "own.yaml: "),
        ("true", "own.yaml: "),
        ("optim: {lr: high}", r"own\.yaml: optim\.lr: expected a number, got 'high'"),
    ],
)
def test_each_bad_file_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        load_experiment(write(tmp_path / "own.yaml", text))
    assert "own.yaml" in str(error.value)


def test_a_cycle_of_bases_is_refused(tmp_path):
    write(tmp_path / "a.yaml", "base: [b.yaml]")
    write(tmp_path / "b.yaml", "base: [a.yaml]")
    with pytest.raises(UserError, match=r"got the file itself: .*a\.yaml → .*b\.yaml → .*a\.yaml"):
        load_experiment(str(tmp_path / "a.yaml"))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="expected UTF-8 text, got binary data"):
        load_experiment(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digitz", r"digitz: no such config.*Did you mean 'digits'\?"),
        ("tests", "tests: expected a run directory with config.yaml"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_config_that_is_not_there(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    with pytest.raises(UserError, match=message):
        load_experiment(name)


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
