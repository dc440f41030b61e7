"""Built-in choices and their builders agree; users add their own."""

import importlib
import inspect
import subprocess
import sys
from dataclasses import MISSING, fields

import pytest
import torch

from diffexp.config.load import load_experiment
from diffexp.config.plugins import load_plugins
from diffexp.config.schemas.data import DATA
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.networks import NETWORKS
from diffexp.config.schemas.samplers import SAMPLERS, AncestralConfig, PriorConfig
from diffexp.config.schemas.schedules import SCHEDULES
from diffexp.config.schemas.weightings import WEIGHTINGS
from diffexp.errors import UserError
from tests.helpers.own_config import small

CHOICES = [
    (registry, name)
    for registry in (DATA, MODELS, NETWORKS, SAMPLERS, SCHEDULES, WEIGHTINGS)
    for name in registry.names
]


@pytest.mark.parametrize(("registry", "name"), CHOICES, ids=[name for _, name in CHOICES])
def test_a_builder_takes_its_schemas_fields_with_the_same_defaults(registry, name):
    schema = registry.schema(name)
    assert schema().name == name
    if isinstance(schema(), (PriorConfig, AncestralConfig)):  # the models that they sample read them themselves
        return
    parameters = inspect.signature(registry.builder(name)).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):  # handed on to another builder
        parameters = {**parameters, **inspect.signature(MODELS.builder("diffusion")).parameters}
    defaults = {each.name: each for each in fields(schema)}
    for own in registry.own_fields(schema):
        assert own in parameters
        default = parameters[own].default
        if default is not inspect.Parameter.empty:
            field = defaults[own]
            value = field.default if field.default is not MISSING else tuple(field.default_factory())
            assert default == value


PLUGIN = """
from dataclasses import dataclass
import torch
from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig

def quartic(timesteps, *, power):
    return 0.02 * torch.linspace(0.1, 1, timesteps, dtype=torch.float64) ** power

@SCHEDULES.register("quartic", quartic)
@dataclass
class Quartic(ScheduleConfig):
    name: str = "quartic"
    power: float = 4.0
"""


def test_a_plugin_adds_a_choice(tmp_path, monkeypatch):
    (tmp_path / "my_schedules.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match="To use your own, pass --plugin"):
        load_experiment(small(tmp_path), ["model.schedule.name=quartic"])
    load_plugins(["my_schedules"])
    try:
        schedule = load_experiment(small(tmp_path), ["model.schedule={'name': 'quartic', 'power': 2}"]).model.schedule
        betas = SCHEDULES.build(schedule, 10)
        torch.testing.assert_close(betas[-1].item(), 0.02)
        torch.testing.assert_close(betas[0].item(), 0.02 * 0.1**2)
    finally:
        SCHEDULES._schemas.pop("quartic")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No module named"), ("1/0", r"ZeroDivisionError.*failing_plugin\.py, line 1"), ("exit(3)", "SystemExit")],
)
def test_a_plugin_that_fails_is_named(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "failing_plugin", raising=False)
    importlib.invalidate_caches()
    if text is not None:
        (tmp_path / "failing_plugin.py").write_text(text)
    with pytest.raises(UserError, match=f"--plugin failing_plugin: cannot be imported: .*{message}"):
        load_plugins(["failing_plugin"])


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="expected an unused schedule name, got 'linear'"):

        @SCHEDULES.register("linear", print)
        class Other(SCHEDULES.base):
            pass


def test_checking_a_config_imports_nothing_heavy():
    code = (
        "import sys; from diffexp.config.load import load_experiment; load_experiment('digits');"
        "print([name for name in ('torch', 'lightning', 'wandb', 'numpy', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
