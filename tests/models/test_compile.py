import logging
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.diffusion.schedules import Schedule, linear
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel
from diffexp.models.compile import Compiled
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.training_noise import TrainingNoise

pytestmark = pytest.mark.slow


class Tiny(nn.Module):
    """A network of few kernels, because each takes more than a second to compile."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.Dropout(0.1), nn.Conv2d(8, 1, 1))

    def forward(self, x, t):
        return self.layers(x) + t.view(-1, 1, 1, 1) / 1000


def model():
    torch.manual_seed(0)
    network = Tiny()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return DiffusionModule((1, 8, 8), network, Schedule(linear(1000)))


@pytest.mark.usefixtures("compiler")
def test_compiled_dropout_drops():
    module = model()
    module.compile_network(training=True)
    x0, noise, t = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.tensor([0, 10, 500, 999])
    torch.manual_seed(0)
    one, two = module.loss(x0, TrainingNoise(t, noise))[1], module.loss(x0, TrainingNoise(t, noise))[1]
    torch.manual_seed(0)
    assert module._compiled["training"]._failed is False
    assert not torch.equal(one, two)
    assert torch.equal(module.loss(x0, TrainingNoise(t, noise))[1], one)


@pytest.mark.usefixtures("compiler")
def test_compiled_samples_are_the_same_and_other_shapes_run_as_they_are():
    module = model()
    plain = module.sample(DDIMConfig(steps=5), range(4), 0)
    rest = module.sample(DDIMConfig(steps=5), range(3), 0)
    module.compile_network(sampling=True)
    torch.testing.assert_close(module.sample(DDIMConfig(steps=5), range(4), 0), plain, rtol=1e-4, atol=1e-5)
    assert module._compiled["sampling"]._failed is False
    assert torch.equal(module.sample(DDIMConfig(steps=5), range(3), 0), rest)


def test_what_cannot_be_compiled_runs_as_it_is(caplog):
    class Broken:
        def __call__(self, x, t):
            raise torch._dynamo.exc.BackendCompilerFailed(None, RuntimeError("no such kernel"), None)

    network = nn.Identity()
    network.forward = lambda x, t: x + 1
    compiled = Compiled(network)
    compiled._compiled = Broken()
    with caplog.at_level(logging.WARNING):
        assert compiled(torch.zeros(1), torch.zeros(1)) == 1
        assert compiled(torch.zeros(1), torch.zeros(1)) == 1
    assert caplog.text.count("It runs uncompiled") == 1


def test_without_a_compiler_the_network_runs_as_it_is():
    code = (
        "import torch; from tests.models.test_compile import model; "
        "from diffexp.config.schemas.models.diffusion import DDIMConfig as D; module = model(); "
        "plain = module.sample(D(steps=2), range(2), 0); module.compile_network(sampling=True); "
        "print(torch.equal(module.sample(D(steps=2), range(2), 0), plain))"
    )
    environment = {**os.environ, "CXX": "/nonexistent/g++", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True"
    (told,) = [line for line in done.stderr.splitlines() if "It runs uncompiled" in line]
    assert "compile: expected a network that torch can compile, got: " in told


def test_a_wrong_network_is_not_called_uncompilable():
    with pytest.raises(RuntimeError, match="size"):
        Compiled(nn.Bilinear(2, 2, 2))(torch.zeros(3, 5), torch.zeros(3, 2))


def test_a_model_that_knows_no_way_says_so():
    class Other(GenerativeModel):
        sample = network_calls = label = None

    with pytest.raises(UserError, match="compile: expected false for Other, got true"):
        Other((1, 8, 8)).compile_network(training=True)
