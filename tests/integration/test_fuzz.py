"""Whatever is written into configs, overrides and sweep files: no traceback, and no exit code but 0 and 2."""

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.cli.main import main
from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict
from diffexp.config.sources import shipped_configs
from tests.helpers.small import SMALL, fit

pytestmark = pytest.mark.slow

CASES = 5000 if "FULL" in os.environ else 500
FUZZ = settings(
    max_examples=CASES // 4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def keys(node, prefix=""):
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{key}.")


KNOWN = sorted({key for name in ("digits", "cifar10_ddpm") for key in keys(as_dict(load_experiment(name)))})
NAMES = ["ddim", "ddpm", "unet", "linear", "cosine", "digits", "image_folder", "classifier", "1000/T", "auto"]
ODD = [
    "",
    "${oc.env:HOME}",
    "???",
    "null",
    "1e400",
    "0x10",
    "1_000",
    "2024-01-01",
    "!!python/name:os.system",
    "&a",
    "*a",
]
SWEPT = ["method", "metric", "early_terminate", "command", "run_cap", "name", "program", "x"]
ASKED = ["count", "seed", "weights", "batch_size", "sampler", "sampler.name", "sampler.steps", "precision", "x"]
SPREAD = ["uniform", "log_uniform_values", "int_uniform", "q_normal", "categorical", "x"]
PARTS = ["name", "steps", "lr", "a", "values", "min", "max"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from(NAMES),
    st.sampled_from(ODD),
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(PARTS) | st.text(max_size=4),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
KEYS = st.one_of(st.sampled_from(KNOWN), st.text(max_size=12))
TEXTS = st.text(max_size=20).filter(lambda text: not text.startswith("-"))
OVERRIDES = st.lists(
    st.one_of(
        st.builds("{}={}".format, KEYS, VALUES), st.text(max_size=20).filter(lambda text: not text.startswith("-"))
    ),
    max_size=4,
)


def run(capsys, *command):
    before = sys.argv
    sys.argv = ["diffexp", *command]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    event(f"exit {code}: {printed.err[:30]}")
    assert code in (0, 2), printed.err
    assert "Traceback" not in printed.err
    assert code == 0 or printed.err.strip(), "an error without a word"


@FUZZ
@given(overrides=OVERRIDES)
def test_overrides(capsys, overrides):
    run(capsys, "config", "show", "digits", *[text.replace("\0", "") for text in overrides])


def nest(pairs):
    nested = {}
    for key, value in pairs:
        node, parts = nested, key.split(".")
        for part in parts[:-1]:
            node = node[part] if isinstance(node.get(part), dict) else node.setdefault(f"{part}", {})
            if not isinstance(node, dict):
                break
        if isinstance(node, dict):
            node[parts[-1]] = value
    return nested


def on_digits(pairs):
    return yaml.safe_dump({"base": ["digits"], **nest(pairs)}).encode()


@FUZZ
@given(
    text=st.one_of(
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
        st.lists(st.tuples(KEYS, VALUES), max_size=5).map(on_digits),
    )
)
def test_config_files(capsys, tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    run(capsys, "config", "check", str(file))


SWEEPS = sorted((Path(shipped_configs()).parent / "sweeps").glob("*.yaml"))
DISTRIBUTIONS = st.fixed_dictionaries(
    {},
    optional={
        "distribution": st.sampled_from(SPREAD),
        "min": SCALARS, "max": SCALARS, "mu": SCALARS, "sigma": SCALARS, "q": SCALARS,
        "values": st.lists(SCALARS, max_size=4) | SCALARS, "value": VALUES, "probabilities": VALUES,
        "parameters": VALUES,
    },
)  # fmt: skip


@FUZZ
@given(
    base=st.sampled_from(SWEEPS),
    changes=st.dictionaries(
        st.sampled_from(SWEPT),
        VALUES,
        max_size=3,
    ),
    parameters=st.dictionaries(
        st.sampled_from(["seed", "optim", "model", "training"]) | KEYS, DISTRIBUTIONS | VALUES, max_size=3
    ),
)
def test_sweep_files(capsys, tmp_path, base, changes, parameters):
    content = yaml.safe_load(base.read_text())
    content["parameters"] = {**content["parameters"], **parameters} if len(parameters) < 2 else parameters
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**content, **changes}))
    run(capsys, "sweep", "check", str(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    fit(run_dir, *SMALL, "training.max_steps=1", "sample_grid=null")
    return run_dir


@FUZZ
@given(
    command=st.sampled_from(["sample", "export"]),
    overrides=st.lists(
        st.builds(
            "{}={}".format,
            st.sampled_from(
                [
                    "count",
                    "seed",
                    "weights",
                    "batch_size",
                    "sampler",
                    "sampler.name",
                    "sampler.steps",
                    "sampler.eta",
                    "precision",
                    "x",
                ]
            ),
            VALUES,
        ),
        max_size=3,
    ),
)
def test_requests(capsys, trained, command, overrides):
    """With an `out` that is always refused, because nothing shall be drawn."""
    run(capsys, command, str(trained), *[text.replace("\0", "") for text in overrides], "out=/dev/null/x.png")


@FUZZ
@given(data=st.data())
def test_checkpoints(capsys, trained, tmp_path, data):
    content = bytearray(list_checkpoints(trained / "checkpoints")[-1].read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 300))] = data.draw(st.binary(max_size=20))
    file = tmp_path / "x.ckpt"
    file.write_bytes(content)
    run(capsys, "sample", str(file), "out=/dev/null/x.png")
    torch.manual_seed(0)
