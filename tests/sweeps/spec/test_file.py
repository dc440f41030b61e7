"""Sweep files: W&B's rules, and ours where W&B lets pass what cannot work."""

import copy

import pytest
import yaml

from diffexp.errors import UserError
from diffexp.sweeps.plan import shipped_sweeps
from diffexp.sweeps.spec.file import parse_sweep, read_sweep

COMMAND = ["${env}", "diffexp", "train", "digits", "training.max_steps=10", "--trial", "lr", "${args_json}"]
RIGHT = {
    "method": "grid",
    "command": COMMAND,
    "metric": {"name": "train/loss", "goal": "minimize"},
    "parameters": {"optim": {"parameters": {"lr": {"values": [1e-3, 2e-3]}}}},
}


def changed(**changes):
    content = copy.deepcopy(RIGHT)
    for key, value in changes.items():
        content[key] = value
    return {key: value for key, value in content.items() if value is not None}


def of(spec, **changes):
    return changed(parameters={"x": spec}, **changes)


def test_a_right_file():
    sweep = parse_sweep(RIGHT, "f.yaml")
    assert (sweep.name, sweep.method, sweep.run_cap) == ("lr", "grid", None)
    assert (sweep.command.kind, sweep.command.target, sweep.command.overrides) == (
        "train",
        "digits",
        ("training.max_steps=10",),
    )
    (parameter,) = sweep.parameters
    assert (parameter.key, parameter.values) == ("optim.lr", (1e-3, 2e-3))


def test_its_text_is_the_same_sweep():
    sweep = parse_sweep(RIGHT, "f.yaml")
    assert parse_sweep(yaml.safe_load(sweep.text()), "f.yaml") == sweep


WRONG = [
    ([], "expected a mapping with method, parameters and command, got list"),
    (changed(methode="grid"), "unknown key 'methode' in a W&B sweep. Did you mean 'method'?"),
    (changed(method="custom"), "method: expected grid, random, bayes or race, got 'custom'"),
    (changed(method=None), "method: expected grid"),
    (changed(parameters=None), "parameters: expected a mapping of config keys to values, got none"),
    (changed(parameters={}), "parameters: expected a mapping of config keys to values, got {}"),
    (changed(metric=None, method="bayes", run_cap=3), "metric: expected a mapping with a name, required by bayes"),
    (changed(metric=None, early_terminate={"type": "hyperband", "min_iter": 1}), "required by early_terminate"),
    (changed(metric={"goal": "minimize"}), "metric: expected a mapping with name"),
    (changed(metric={"name": "a", "goal": "min"}), "metric.goal: expected minimize or maximize, got 'min'"),
    (changed(metric={"name": "a", "gaol": "minimize"}), "Did you mean 'goal'?"),
    (changed(metric={"name": "a", "target": "low"}), "metric.target: expected a number, got 'low'"),
    (changed(method="random"), "run_cap: expected an integer >= 1, got none: random search has no end"),
    (changed(project="a/b"), "project: expected a W&B project of at most 128 characters without / "),
    (changed(project="a" * 129), "project: expected a W&B project of at most 128 characters"),
    (changed(run_cap=0), "run_cap: expected an integer >= 1, got 0"),
    (changed(run_cap=True), "run_cap: expected an integer >= 1, got True"),
    (changed(name="other"), "name: expected 'lr', the name after --trial in the command, got 'other'"),
    (of({"min": 1, "max": 3}), "parameters.x: expected values for a grid, got int_uniform"),
    (of({"distribution": "q_uniform", "min": 1, "max": 3, "q": 1}), "expected values for a grid, got q_uniform"),
    (of({"values": []}), "values: expected a list of at least one value, got []"),
    (of({"values": [1, 1]}), "values: expected distinct values, got 1 twice"),
    (of({"values": [1], "value": 1}), "expected exactly one of value, values, min and max, distribution or parameters"),
    (of({}), "or parameters, got none"),
    (of(3), "x: expected a mapping with value"),
    (of({"valeus": [1]}), "Did you mean 'values'?"),
    (of({"values": [1], "parameters": {"y": {"value": 1}}}), "expected either nested parameters or values, got both"),
    (of({"values": ["1e-4"]}), "expected a number, got 1e-4, a string in YAML 1.1"),
    (of({"min": 0, "max": 1.0}, method="random", run_cap=1), "expected two integers or two floats, got 0 and 1.0"),
    (of({"min": 0.0}, method="random", run_cap=1), "max: expected a finite number, got none"),
    (of({"min": 2.0, "max": 1.0}, method="random", run_cap=1), "expected min < max, got 2.0 and 1.0"),
    (of({"min": "1e-4", "max": 1.0}, method="random", run_cap=1), "Write a dot and a sign, as in 1.0e-4"),
    (of({"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}, method="random", run_cap=1), "a number > 0"),
    (of({"distribution": "gauss"}, method="random", run_cap=1), "unknown distribution 'gauss'"),
    (of({"distribution": "normal", "min": 1}, method="random", run_cap=1), "min: not a key of distribution normal"),
    (of({"distribution": "normal", "sigma": 0}, method="random", run_cap=1), "sigma: expected a number > 0, got 0"),
    (of({"distribution": "int_uniform", "min": 0.5, "max": 2.5}, method="random", run_cap=1), "expected integers"),
    (of({"values": [1, 2], "probabilities": [0.5]}), "probabilities: expected 2 non-negative numbers, got [0.5]"),
    (of({"values": [1, 2], "probabilities": [0.5, 0.6]}), "expected a sum of 1, got 1.1"),
    (changed(parameters={"optim.lr": {"values": [1]}}), "Write optim: {parameters: {lr: …"),
    (changed(early_terminate={"type": "envelope"}), "hyperband, the only rule W&B has, got {'type': 'envelope'}"),
    (changed(early_terminate={"type": "hyperband"}), "expected either min_iter, or max_iter and s, got none"),
    (changed(early_terminate={"type": "hyperband", "max_iter": 9}), "or max_iter and s, got max_iter"),
    (changed(early_terminate={"type": "hyperband", "min_iter": 0}), "min_iter: expected an integer >= 1, got 0"),
    (changed(early_terminate={"type": "hyperband", "min_iter": 1, "eta": 1}), "eta: expected a number > 1"),
    (changed(early_terminate={"type": "hyperband", "min_iter": 1, "strict": "no"}), "strict: expected true or false"),
    (changed(early_terminate={"type": "hyperband", "max_iter": 1, "s": 2}), "expected at least one band"),
    (changed(early_terminate={"type": "hyperband", "min_iter": 1, "eta": float("inf")}), "<= 1000, got inf"),
    (of({"distribution": ["uniform"]}), "unknown distribution ['uniform']"),
    (of({"values": [1], "distribution": None}), "unknown distribution None"),
    (of({"distribution": "log_uniform", "min": 1, "max": 1000}, method="random", run_cap=1), "expected logarithms"),
    (of({"values": [1, 2], "probabilities": [0.5, 0.5]}), "expected none, because a grid runs all values"),
    (of({"values": [1, 1.0]}), "values: expected distinct values, got 1.0 twice"),
    (of({"values": list(range(10_001))}), "expected at most 10,000 trials, got 10,001. Set run_cap"),
    (changed(command=None), "command: expected a list of words, got none"),
    (changed(command="diffexp train digits"), "command: expected a list of words"),
    (changed(command=["python", "train.py", "${args}"]), "command: expected diffexp train or diffexp evaluate"),
    (changed(command=["diffexp", "train", "digits", "${args}"]), "unknown word ${args}"),
    (changed(command=["diffexp", "train", "digits", "${args_no_hyphens}"]), "--trial NAME '${args_json}'"),
    (changed(command=["diffexp", "train", "digits", "--resume", *COMMAND[5:]]), "unknown word --resume"),
    (changed(command=["diffexp", "train", "digits"]), "expected --trial NAME"),
    (changed(command=["diffexp", "train", "digits", "--trial"]), "--trial: expected 2 argument(s), got 0"),
    (changed(command=["diffexp", "train", "--trial", "lr", "${args_json}"]), "expected one config or run after train"),
    (changed(command=["diffexp", "train", "digits", "twice", "--trial", "lr", "${args_json}"]), "then key=value"),
    (changed(command=["diffexp", "train", "digits", "--trial", "a/b", "${args_json}"]), "expected a directory name"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_what_is_wrong_is_told(content, message):
    with pytest.raises(UserError) as raised:
        parse_sweep(content, "f.yaml")
    assert str(raised.value).startswith("f.yaml: ")
    assert message in str(raised.value)


def test_a_key_written_twice_is_refused(tmp_path):
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(RIGHT) + "method: random\n")
    with pytest.raises(UserError, match="a mapping has a duplicate key"):
        read_sweep(tmp_path / "f.yaml")


def test_a_grid_too_large_to_list_needs_a_cap():
    values = {"values": list(range(100))}
    parameters = {f"x{index}": values for index in range(5)}
    with pytest.raises(UserError, match="got 10,000,000,000"):
        parse_sweep(changed(parameters=parameters), "f.yaml")
    assert parse_sweep(changed(parameters=parameters, run_cap=5), "f.yaml").run_cap == 5


def test_a_file_that_contains_itself_is_told(tmp_path):
    text = yaml.safe_dump({key: value for key, value in RIGHT.items() if key != "parameters"})
    (tmp_path / "f.yaml").write_text(f"{text}parameters: &a {{x: {{parameters: *a}}}}\n")
    with pytest.raises(UserError, match=r"an alias \(\*…\) contains itself"):
        read_sweep(tmp_path / "f.yaml")


def test_numbers_without_a_dot_are_texts_in_the_file(tmp_path):
    (tmp_path / "f.yaml").write_text(yaml.safe_dump(RIGHT).replace("0.001", "1e-3"))
    with pytest.raises(UserError, match=r"parameters\.optim\.lr: expected a number, got 1e-3, a string in YAML 1\.1"):
        read_sweep(tmp_path / "f.yaml")


SHIPPED = sorted(shipped_sweeps().glob("*.yaml"))


def test_the_shipped_sweeps_are_there():
    assert {file.stem for file in SHIPPED} == {
        *(
            "timesteps",
            "schedules",
            "sampling_steps",
            "objectives",
            "variance",
            "learning_rate",
            "seeds",
            "precision",
            "weightings",
            "families",
            "families_fashion_mnist",
        )
    }


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_sweep_is_named_like_its_file_and_names_its_project(file):
    assert read_sweep(file).name == file.stem
    assert read_sweep(file).content["project"] == "diffexp"


@pytest.mark.parametrize("word", ["1.10", "on", "1.5e-3", "1:30.5", "1_000", "0x1F"])
def test_words_of_a_command_that_yaml_changes_are_refused(tmp_path, word):
    file = tmp_path / "f.yaml"
    content = yaml.safe_dump(
        of({"values": [1]}, command=["diffexp", "train", "digits", "--trial", "HERE", "${args_json}"])
    )
    for written in (word, f"'{word}'"):
        file.write_text(content.replace("HERE", written))
        if written == word:
            with pytest.raises(UserError, match="uote it"):
                read_sweep(file)
    assert ":" in word or read_sweep(file).name == word


@pytest.mark.parametrize(("written", "read"), [("010", 8), ("12:30", 750), ("-017", -15), ("1:30.5", 90.5)])
def test_numbers_that_yaml_1_1_changes_are_refused(tmp_path, written, read):
    assert yaml.safe_load(written) == read
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(of({"values": ["HERE"]})).replace("HERE", written))
    with pytest.raises(UserError, match=f"W&B reads {written} as {read}. Write {read} or quote it"):
        read_sweep(file)


def test_a_date_and_quoted_numbers_stay_texts_in_the_plans_file_too(tmp_path):
    file = tmp_path / "f.yaml"
    content = of({"values": ["1.10", "007", "HERE"]}, description="THERE")
    file.write_text(yaml.safe_dump(content).replace("HERE", "2024-01-01").replace("THERE", "2024-01-01"))
    sweep = read_sweep(file)
    assert sweep.parameters[0].values == ("1.10", "007", "2024-01-01")
    assert yaml.safe_load(sweep.text())["parameters"] == {"x": {"values": ["1.10", "007", "2024-01-01"]}}


@pytest.mark.parametrize("key", ["name", "description", "program", "project", "entity"])
@pytest.mark.parametrize("written", ["2024", "1.10", "yes", "[a]", "!!binary aGk=", "!!set {a}"])
def test_a_text_that_yaml_changes_is_refused(tmp_path, key, written):
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(changed(**{key: "HERE"})).replace("HERE", written))
    with pytest.raises(UserError, match=f"{key}: expected a string, got|expected texts, numbers, lists and mappings"):
        read_sweep(file)


def test_a_number_too_long_to_print_is_one_short_message(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(of({"values": ["HERE"]})).replace("HERE", ":".join(["59"] * 4000)))
    with pytest.raises(UserError, match="expected at most 100 characters in a number") as raised:
        read_sweep(file)
    assert len(str(raised.value)) < 500
