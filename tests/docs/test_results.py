"""The scripts of docs/results/families.md: its baselines against closed forms, and all of them for a few steps."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import torch

from tests.helpers.small import script

FOLDER = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def histograms():
    spec = importlib.util.spec_from_file_location("histograms", FOLDER / "histograms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_component_is_the_histogram_of_each_pixel(histograms):
    images = torch.tensor([[0, 3], [0, 3], [0, 1], [2, 3]], dtype=torch.uint8)
    mixture = histograms.fitted(images, 1, steps=5, seed=0, levels=4).smoothed(2.0)
    together = torch.tensor([4.0, 2.0, 2.0, 4.0]) / 12  # of all pixels, one image of all levels added
    expected = torch.tensor([[3.0, 0, 1, 0], [0, 1, 0, 3]])
    expected = (expected + 2 * together) / (4 + 2)
    assert mixture.histograms[:, :, 0].numpy() == pytest.approx(expected.numpy())
    bits = -(expected[0, 0] * expected[1, 3]).log2() / 2
    assert mixture.bits_per_dim(images)[0].item() == pytest.approx(bits.item())


def test_em_finds_what_a_mixture_was_drawn_from_and_never_loses_likelihood(histograms):
    source = torch.Generator().manual_seed(0)
    levels = torch.cat([torch.multinomial(torch.tensor(p), 12 * count, True, generator=source).view(count, 12)
                        for p, count in (([0.7, 0.2, 0.05, 0.05], 600), ([0.05, 0.05, 0.2, 0.7], 1400))])  # fmt: skip
    steps = [histograms.fitted(levels, 2, steps=steps, seed=1, levels=4).smoothed(1e-9) for steps in range(8)]
    bits = [mixture.bits_per_dim(levels).mean().item() for mixture in steps]
    assert all(after <= before + 1e-4 for before, after in itertools.pairwise(bits))
    order = steps[-1].shares.argsort()
    assert steps[-1].shares[order].tolist() == pytest.approx([0.3, 0.7], abs=0.01)
    found = steps[-1].histograms.mean(0)[:, order]
    expected = torch.tensor([[0.7, 0.05], [0.2, 0.05], [0.05, 0.2], [0.05, 0.7]])
    assert found.numpy() == pytest.approx(expected.numpy(), abs=0.02)
    drawn = steps[-1].sample(4000, seed=2)
    assert torch.bincount(drawn.flatten(), minlength=4).div(drawn.numel()).tolist() == pytest.approx(
        (expected @ torch.tensor([0.3, 0.7])).tolist(), abs=0.02
    )


def test_held_out_images_choose_more_components_where_there_are_any(histograms):
    source = torch.Generator().manual_seed(0)
    dark = torch.randint(0, 40, (400, 6), generator=source)
    bright = torch.randint(200, 240, (400, 6), generator=source)
    both = torch.cat([dark, bright])[torch.randperm(800, generator=source)]
    assert len(histograms.chosen(both[:700], both[700:], (1, 2), 5).shares) == 2
    assert len(histograms.chosen(dark[:300], dark[300:], (1, 2, 8), 5).shares) == 1


@pytest.mark.slow
def test_the_page_is_made_of_what_the_scripts_measure(tmp_path):
    def run(name, *words):
        return script(FOLDER / name, *map(str, words), cwd=tmp_path, WANDB_MODE="disabled").stdout

    run("families.py", "digits_flow", tmp_path, "training.max_steps=101", "model.width=8")
    run("histograms.py", "digits", tmp_path)
    flow = json.loads((tmp_path / "digits_flow.json").read_text())
    tried = {each["step"]: each for each in flow["tried"]}
    assert list(tried) == [100, 101]
    assert flow["likelihood"]["step"] == min(tried, key=lambda step: tried[step]["bits"])
    assert flow["samples"]["step"] == min(tried, key=lambda step: tried[step]["distance"])
    assert flow["likelihood"]["mean"] > 4
    page = run("families_page.py", "digits", tmp_path, tmp_path / "picture.png")
    assert f"| flow | {flow['likelihood']['mean']:.2f} ± {flow['likelihood']['error']:.2f} | dequantised |" in page
    assert "| histogram (smoothing 10) | 2.41 ± 0.01 | exact | – | – |" in page
    assert (tmp_path / "picture.png").is_file()
