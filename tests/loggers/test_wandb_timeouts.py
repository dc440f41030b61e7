"""How long a run waits for W&B's server."""

import pytest
import wandb

from diffexp.config.schemas.common import WandbConfig
from diffexp.loggers.base import LoggedRun
from diffexp.loggers.wandb import WandbLogger


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Start a logger, and return the settings that W&B gets."""
    given = []

    def init(**arguments):
        given.append(arguments["settings"])
        raise ConnectionError("no server here")

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "offline")

    def start():
        with pytest.raises(ConnectionError):
            WandbLogger(LoggedRun(tmp_path, "id", "name", {}, WandbConfig()))
        return given[-1]

    return start


def test_by_default_it_waits_half_a_minute(settings, monkeypatch):
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    found = settings()
    assert (found.init_timeout, found.finish_timeout) == (30, 30)


def test_the_variables_of_wandb_decide(settings, monkeypatch):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "6")
    found = settings()
    assert "init_timeout" not in found.model_fields_set
    assert found.finish_timeout == 30
