"""The plots of the held-out loss."""

import numpy as np
import pytest

from diffexp.reports.heat_map import HeatMap
from diffexp.reports.plots import validation_plots
from diffexp.runs.reader import RunReader
from diffexp.runs.validations import RecordedValidation, validation_file, write_validation

LEVELS = np.array([1, -1], np.float32)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("name: x\n")
    for step, value in ((10, 4.0), (20, 3.0), (30, 3.5)):
        bits = {name: np.array([value, value + 2], np.float32) for name in ("ema", "raw", "train")}
        bits["train"] -= 1
        errors = {name: np.stack([values, 2 * values], 1) for name, values in bits.items()}
        numbers = np.arange(2)
        found = RecordedValidation(step, "p", bits, errors, LEVELS, numbers, numbers)
        write_validation(found, validation_file(tmp_path / "validation", step))
    return RunReader(tmp_path, "one")


def test_the_loss_is_plotted_with_the_bars_of_95_percent(run):
    losses, _ = validation_plots([run])
    held_out, train = losses.lines
    assert list(held_out.x) == list(train.x) == [10, 20, 30]
    assert list(held_out.y) == [5, 4, 4.5]
    assert list(held_out.errors) == pytest.approx([1.96] * 3)  # of two values 2 apart, the standard error is 1
    assert list(train.y) == [4, 3, 3.5]
    assert "protocol p" in losses.caption


def test_the_heat_map_shows_multiples_of_the_lowest_error_of_each_level(run):
    _, levels = validation_plots([run])
    assert isinstance(levels, HeatMap)
    figure = levels.figure()
    (drawn,) = figure.axes[0].get_images()
    assert drawn.get_array().tolist() == [pytest.approx([5 / 4, 1, 4.5 / 4])] * 2
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["1  (4)", "-1  (8)"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["10", "20", "30"]
    assert "http" not in levels.svg().partition("data:image")[2]
    assert levels.files()["png"].startswith(b"\x89PNG")


def test_runs_of_one_protocol_share_a_plot_and_a_run_without_levels_has_no_heat_map(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("name: y\n")
    bits = {name: np.array([1.0, 2.0], np.float32) for name in ("raw", "train")}
    numbers, none = np.arange(2), np.zeros(0, np.float32)
    write_validation(
        RecordedValidation(5, "p", bits, {}, none, numbers, numbers), validation_file(other / "validation", 5)
    )
    plots = validation_plots([run, RunReader(other, "two")])
    assert [type(each).__name__ for each in plots] == ["Plot", "HeatMap"]
    assert [line.name for line in plots[0].lines] == ["one held-out", "one training", "two held-out", "two training"]
