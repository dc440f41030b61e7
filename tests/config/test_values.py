import json

import pytest
import yaml
from omegaconf import OmegaConf

from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict, as_yaml
from diffexp.config.sources import override_layer, parse_value, shipped_configs
from diffexp.config.trial import Trial
from diffexp.config.yaml_text import read
from diffexp.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("True", True),
        ("true", True),
        ("None", None),
        ("null", None),
        ("", None),
        ("1e-4", 1e-4),
        ("7", 7),
        ("1000/T", "1000/T"),
        ("quadratic-0.8", "quadratic-0.8"),
        ("{'lr': 0.1, 'betas': [0.9, 0.999]}", {"lr": 0.1, "betas": [0.9, 0.999]}),
        ("{lr: 0.1}", {"lr": 0.1}),
        ("(1, 2)", [1, 2]),
        ("[a, b]", ["a", "b"]),
        ("'1'", "1"),
        ("a=b", "a=b"),
    ],
)
def test_values_in_pythons_and_in_yamls_writing(text, value):
    assert parse_value(text, "key")[0] == value
    assert type(parse_value(text, "key")[0]) is type(value)


@pytest.mark.parametrize("text", ["[1", "{1, 2}", "b'x'", "1j", "!!python/object/apply:os.getcwd []"])
def test_what_a_config_cannot_hold_is_refused(text):
    with pytest.raises(UserError, match=r"command line: optim\.lr:"):
        parse_value(text, "optim.lr")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("007", "007"),
        ("010", "010"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", 1000),
        ("0o17", 15),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("1e999", "1e999"),
        ("!!str 7", "7"),
        ("'a\\n'", "a\n"),
        ("{10: {steps: 5}}", {"10": {"steps": 5}}),
    ],
)
def test_no_value_means_what_it_does_not_say(text, value):
    found, _ = parse_value(text, "key")
    assert found == value
    assert type(found) is type(value)


WRITTEN = [
    "007",
    "695e0514",
    "1.10",
    "1E234",
    "12:30:00",
    "on",
    "No",
    "2024-01-01",
    "1_000",
    "0x1f",
    "-.inf",
    "1e3",
    "+1",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_text_key_holds_what_was_written(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(f"base: [digits]\nname: {text}\nwandb: {{tags: [{text}, plain], group: {text}}}\n")
    samplers = f"sample_grid.samplers={{ {text.replace('.', '').replace(':', '').replace('+', '')}: {{name: ddim}} }}"
    from_file = load_experiment(str(file))
    given = load_experiment("digits", [f"name={text}", f"wandb.tags=[{text}, plain]", f"wandb.group={text}", samplers])
    for found in (from_file, given):
        assert (found.name, found.wandb.tags, found.wandb.group) == (text, [text, "plain"], text)
        again = tmp_path / "again.yaml"
        again.write_text(as_yaml(found))  # as a run's config.yaml
        assert load_experiment(str(again)) == found


def test_nulls_stay_nulls_and_quoted_ones_texts(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: [digits]\nwandb: {group: ~, name: 'null'}\n")
    assert load_experiment(str(file)).wandb.group is None
    assert load_experiment(str(file)).wandb.name == "null"
    assert load_experiment("digits", ["wandb.group=None"]).wandb.group is None


@pytest.mark.parametrize("key", ["name", "wandb.group", "runs_dir"])
@pytest.mark.parametrize("value", ["1.1", "7", "true"])
def test_a_number_for_a_text_is_refused_where_nobody_knows_how_it_was_written(key, value):
    nested = json.loads(value)
    for part in reversed(key.split(".")):
        nested = {part: nested}
    with pytest.raises(UserError, match=rf"trial: {key}: expected a string.*Quote the value"):
        load_experiment("digits", [], Trial("s", nested))


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", "12:30:00"), ("optim.lr", "1:30"), ("training.max_steps", "2024-01-01"), ("seed", "1.5")],
)
def test_a_number_key_refuses_what_is_no_plain_number(tmp_path, key, value):
    nested = value
    for part in reversed(key.split(".")):
        nested = f"{{{part}: {nested}}}"
    file = tmp_path / "own.yaml"
    file.write_text(f"base: [digits]\n{nested[1:-1]}\n")
    for given in ([str(file)], ["digits", [f"{key}={value}"]]):
        with pytest.raises(UserError, match=rf"{key}: expected an? (integer|number), got '?{value}"):
            load_experiment(*given)


def test_a_leading_zero_is_no_octal():
    assert load_experiment("digits", ["seed=010"]).seed == 10


def test_merged_and_aliased_yaml_keep_what_was_written():
    values, texts = read("a: &a {x: 007, y: 1.10}\nb: {<<: *a, y: 2}\nc: *a\n")
    assert values == {"a": {"x": "007", "y": 1.1}, "b": {"x": "007", "y": 2}, "c": {"x": "007", "y": 1.1}}
    assert texts == {("a", "y"): "1.10", ("b", "y"): "2", ("c", "y"): "1.10"}


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: !!binary AAAA", "{a: 1, a: 2}", "[1]: 2", "a: !!set {b}"])
def test_yaml_that_is_no_data_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        read(text)


def test_dotted_keys_nest():
    assert override_layer("a.b.c=1").values == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize(
    ("text", "message"), [("lr", "expected key=value, got 'lr'"), ("=1", "non-empty key"), ("a..b=1", "non-empty key")]
)
def test_what_is_no_override_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        override_layer(text)


@pytest.mark.parametrize("key", ["name", "runs_dir", "run_dir", "data.name", "wandb.project", "wandb.tags"])
def test_nul_in_a_text_is_refused_from_every_source(tmp_path, key):
    value = ["a", "b\0c"] if key == "wandb.tags" else "b\0c"
    nested = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"base": "digits", **nested}))
    for arguments in (
        (str(tmp_path / "c.yaml"),),
        ("digits", [f"{key}={value!r}"]),
        ("digits", [], Trial("s", nested)),
    ):
        with pytest.raises(UserError, match=rf"{key}.*(without NUL|got 'b\\x00c')"):
            load_experiment(*arguments)


def test_a_long_wrong_value_is_shortened():
    with pytest.raises(UserError) as raised:
        load_experiment("digits", ["seed=" + ":".join(["59"] * 4000)])
    assert len(str(raised.value)) < 300


LAYERS = [
    [],
    ["optim.lr=1", "optim.betas=[0, 0.5]", "training.max_steps=1000", "training.compile=yes", "ema.rampup=null"],
    ["wandb.tags=[a, b]", "wandb.name='1'", "data.random_flip=on", "score.every=7", "score.samplers.ddim-50.eta=1"],
    ["ema=null", "ema.half_life=5", "sample_grid=null", "training.precision=32-true", "model.network.dropout=1e-1"],
]


@pytest.mark.parametrize("overrides", LAYERS, ids=len)
def test_values_are_those_of_omegaconf(overrides):
    """OmegaConf merges the overrides over its own tree of typed nodes."""
    before = load_experiment("digits")
    usual = OmegaConf.structured(before)
    for text in overrides:
        if text == "ema.half_life=5":  # which brings back the defaults of the section
            usual.ema = before.ema
        usual = OmegaConf.merge(usual, override_layer(text).values)
    merged = load_experiment("digits", overrides)
    assert merged == OmegaConf.to_object(usual)
    assert as_yaml(merged) == OmegaConf.to_yaml(as_dict(merged))


@pytest.mark.parametrize("file", sorted(shipped_configs().glob("*.yaml")), ids=lambda file: file.stem)
def test_a_config_is_printed_as_omegaconf_prints_it(file):
    if file.stem != "base":
        config = load_experiment(str(file), ["data.path=."] if file.stem == "image_folder" else [])
        assert as_yaml(config) == OmegaConf.to_yaml(as_dict(config))


def test_configs_share_nothing():
    one, two = (load_experiment("digits", ["wandb.tags=[a]"]) for _ in range(2))
    one.wandb.tags.append("b")
    one.optim.betas[0] = 0.5
    next(iter(one.sample_grid.samplers.values())).name = "other"
    assert load_experiment("digits", ["wandb.tags=[a]"]) == two
