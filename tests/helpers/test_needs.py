"""A missing package of Debian skips a test on a bare machine, and never in CI."""

import pytest
import torch

from diffexp.data import fashion_mnist
from tests.helpers import needs


@pytest.fixture
def bare(monkeypatch, tmp_path):
    monkeypatch.setattr(needs, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    monkeypatch.delenv("CI", raising=False)


@pytest.mark.usefixtures("bare")
def test_a_bare_machine_skips_and_ci_fails(monkeypatch):
    needs.require("/usr/bin/sbatch", "`apt install slurm-wlm`")
    with pytest.raises(pytest.skip.Exception, match="needs `apt install slurm-wlm`"):
        needs.require(None, "`apt install slurm-wlm`")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs `apt install slurm-wlm`, which CI must have"):
        needs.require(None, "`apt install slurm-wlm`")
    with pytest.raises(pytest.fail.Exception, match="needs `apt install dataset-fashion-mnist`"):
        needs.require_fashion_mnist()


@pytest.mark.parametrize("split", ["train", "test"])
def test_stand_ins_are_found_as_fashion_mnist(tmp_path, split):
    needs.write_stand_ins(tmp_path, count=30)
    images = fashion_mnist.load(split, 32, 1, 1.0, root=str(tmp_path))
    assert len(images) == 30
    assert torch.bincount(images.labels).tolist() == [3] * 10
    assert len(images.images.flatten(1).unique(dim=0)) == 30
