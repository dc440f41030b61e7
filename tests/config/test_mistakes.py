"""Every mistake in a config is one message with its source and key."""

import pytest

from diffexp.config.load import load_experiment
from diffexp.errors import UserError
from tests.helpers.own_config import small, write

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
