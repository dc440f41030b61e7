"""diffexp evaluate, diffexp score, diffexp extractor, and scores in whole runs."""

import csv
import json
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.commands import locate
from diffexp.data.digits import load
from tests.helpers.sets import digits, noisy
from tests.helpers.small import SMALL, diffexp, experiment, fit, metrics, start

SCORE = (
    "score={'extractor': {'name': 'digits_v1'}, 'every': 4, 'count': 60, "
    "'samplers': {'ddim-50': None, 'ddpm': None, 'a': {'name': 'ddim', 'steps': 5}}}"
)
TABLE = ["steps=[5,null]", "count=50", "repeats=2", "samplers.eta-02=null", "samplers.eta-05=null"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return {"DIFFEXP_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A trained run that has scored itself while training."""
    cwd = tmp_path_factory.mktemp("scores")
    done = diffexp("train", "digits", *SMALL, SCORE, "run_dir=run", cwd=cwd, **cache)
    assert re.search(r"scored sampler +images +seconds +fd_digits_v1_60\nddim-5-eta0 +60 ", done.stdout)
    assert "step 8, ema weights; lower is better" in done.stdout
    assert "score a (ddim-5-eta0): 5 network calls × 60 images, about" in done.stderr
    return cwd / "run"


@pytest.fixture(scope="module")
def table(run, cache):
    done = diffexp("evaluate", "run", *TABLE, cwd=run.parent, **cache)
    (folder,) = (run / "evaluations").iterdir()
    return done, folder, json.loads((folder / "table.json").read_text())


def without_seconds(content):
    return [{**cell, "seconds": None} for cell in content["cells"]]


def test_a_run_keeps_and_logs_its_scores(run):
    rows = [row for row in metrics(run) if "score/fd_digits_v1_60_best" in row]
    assert [row["step"] for row in rows] == [4, 8]
    name = "score/ddim-5-eta0-ema/fd_digits_v1_60"
    for row in rows:
        kept = json.loads((run / "scores" / f"step-{row['step']:08d}.json").read_text())
        assert kept["scores"]["a"]["scores"]["fd"]["value"] == row[name]
        assert kept["details"]["reference"]["count"] == 1617
    assert rows[-1]["score/fd_digits_v1_60_best"] == min(row[name] for row in rows)


@pytest.mark.slow
def test_two_processes_score_as_one(run, tmp_path, cache):
    overrides = ["training.devices=2", "training.accelerator=cpu"]
    diffexp("train", "digits", *SMALL, SCORE, *overrides, "run_dir=two", cwd=tmp_path, **cache)
    for step in (4, 8):
        one, two = (
            json.loads((each / "scores" / f"step-0000000{step}.json").read_text()) for each in (run, tmp_path / "two")
        )
        assert one["protocol"] == two["protocol"]
        values = [each["scores"]["a"]["scores"]["fd"]["value"] for each in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-2)  # the weights differ by rounding, images by a grey level


def test_the_table_has_a_row_a_sampler_and_a_column_a_number_of_steps(table):
    done, folder, content = table
    rows = ["ddim-eta0", "ddim-eta1", "ddim-eta1-sigma_hat"]
    assert [(cell["row"], cell["network_calls"]) for cell in content["cells"]] == [
        (row, steps) for row in rows for steps in (5, 20)
    ]
    assert all(len(cell["blocks"]) == 2 for cell in content["cells"])
    assert "| sampler \\ network calls | 5 | 20 |" in done.stdout
    assert done.stdout.strip().startswith((folder / "table.md").read_text().strip())
    with (folder / "table.csv").open() as file:
        records = list(csv.DictReader(file))
    for record, cell in zip(records, content["cells"], strict=True):
        values = [block["fd"]["value"] for block in cell["blocks"]]
        assert float(record["fd"]) == pytest.approx(np.mean(values))
        assert float(record["fd_spread"]) == pytest.approx(np.std(values, ddof=1))
        assert record["protocol"] == content["protocol"]
        for key in ("weights", "count", "reference", "extractor", "quantisation", "spacing", "clip_sample"):
            assert record[key] != ""


@pytest.mark.slow
def test_a_cell_is_the_score_of_the_images_that_sample_draws(table, run, cache):
    """The same number by another way: images written to disk, PNG by PNG, and scored as a folder and as a .npz."""
    cell = table[2]["cells"][0]
    sampler = ["sampler.name=ddim", "sampler.steps=5"]
    diffexp("sample", "run", *sampler, "count=100", "out=all.npz", cwd=run.parent, **cache)
    images = np.load(run.parent / "all.npz")["images"]
    for block in (0, 1):
        np.savez(run.parent / "block.npz", images=images[50 * block : 50 * (block + 1)])
        diffexp("score", "block.npz", "digits", "out=score.json", "overwrite=true", cwd=run.parent, **cache)
        found = json.loads((run.parent / "score.json").read_text())
        assert found["protocol"] == table[2]["protocol"]
        expected = cell["blocks"][block]
        assert found["scores"]["fd"]["value"] == pytest.approx(expected["fd"]["value"], rel=1e-4)
        assert found["scores"]["kd"]["value"] == pytest.approx(expected["kd"]["value"], rel=1e-3)
        assert found["scores"]["recall"] == expected["recall"]
    diffexp("sample", "run", *sampler, "count=50", "out=pngs", cwd=run.parent, **cache)
    diffexp("score", "pngs", "digits", "out=score.json", "overwrite=true", cwd=run.parent, **cache)
    found = json.loads((run.parent / "score.json").read_text())
    assert found["scores"]["fd"]["value"] == pytest.approx(cell["blocks"][0]["fd"]["value"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_table_goes_on_where_it_was(table, run, cache):
    process = start("evaluate", "run", *TABLE, "out=killed", cwd=run.parent, **cache)
    path = run.parent / "killed" / "table.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.is_file() and any(cell["blocks"] for cell in json.loads(path.read_text())["cells"]):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads(path.read_text())
    done_before = sum(len(cell["blocks"]) for cell in before["cells"])
    assert 0 < done_before < 12
    done = diffexp("evaluate", "run", *TABLE, "out=killed", cwd=run.parent, **cache)
    assert f"{12 - done_before} scores of 50 images" in done.stderr
    after = json.loads(path.read_text())
    assert without_seconds(after) == without_seconds(table[2])
    again = diffexp("evaluate", "run", *TABLE, "out=killed", cwd=run.parent, **cache)
    assert "killed/table.md: complete, nothing to score" in again.stderr


@pytest.mark.slow
def test_what_was_computed_stays_when_less_or_more_is_asked_for(table, run, cache):
    import shutil

    shutil.copytree(table[1], run.parent / "more")
    less = ["steps=[5]", "samplers={'eta-1': None}", "repeats=1", "count=50", "out=more"]
    diffexp("evaluate", "run", *less, cwd=run.parent, **cache)
    again = diffexp("evaluate", "run", *less, cwd=run.parent, **cache)
    assert "more/table.md: complete, nothing to score" in again.stderr
    kept = json.loads((run.parent / "more" / "table.json").read_text())
    assert {(cell["row"], cell["network_calls"]): cell["blocks"] for cell in table[2]["cells"]}.items() <= {
        (cell["row"], cell["network_calls"]): cell["blocks"] for cell in kept["cells"]
    }.items()
    diffexp("evaluate", "run", *TABLE, "steps=[5]", "repeats=3", "out=more", cwd=run.parent, **cache)
    more = json.loads((run.parent / "more" / "table.json").read_text())
    assert sorted(len(cell["blocks"]) for cell in more["cells"]) == [1, 1, 2, 2, 2, 3, 3, 3][-len(more["cells"]) :]


def test_another_evaluation_in_the_folder_is_refused(table, run, cache):
    done = diffexp("evaluate", "run", *TABLE, "seed=1", f"out={table[1]}", cwd=run.parent, expect=2, **cache)
    assert "with another seed. Set out=…" in done.stderr


@pytest.mark.slow
def test_wandb_gets_the_table_and_the_curve(run, tmp_path, cache, monkeypatch):
    fit(tmp_path / "run", "loggers=[wandb]", "sample_grid=null")
    diffexp(
        "evaluate",
        "run",
        *TABLE,
        "repeats=1",
        "extractor.name=digits_v1",
        "out=table",
        cwd=tmp_path,
        WANDB_MODE="offline",
        **cache,
    )
    (offline,) = (tmp_path / "table" / "wandb").glob("offline-run-*")
    tables = [json.loads(file.read_text()) for file in (offline / "files" / "media" / "table").rglob("*.json")]
    evaluation = next(each for each in tables if "sampler" in each["columns"])
    assert len(evaluation["data"]) == 6
    curve = next(each for each in tables if "sampler" not in each["columns"])
    assert len(curve["data"]) == 6


@pytest.mark.slow
def test_the_config_says_which_weights_and_these_are_used(run, cache):
    values = []
    for weights in ("ema", "raw"):
        settings = ["steps=[5]", "count=50", "repeats=1", f"weights={weights}", f"out={weights}"]
        diffexp("evaluate", "run", *settings, cwd=run.parent, **cache)
        content = json.loads((run.parent / weights / "table.json").read_text())
        assert content["about"]["weights"] == weights
        values.append(content["cells"][0]["mean"]["fd"])
    assert values[0] != values[1]


def write_images(folder, images):
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:04d}.png")


@pytest.mark.slow
def test_two_folders_can_be_compared_and_order_is_kept(tmp_path, cache):
    test = load("test", 8, 1, 1.0).images
    write_images(tmp_path / "real", digits()[:300])
    write_images(tmp_path / "fresh", test)
    write_images(tmp_path / "noisy", noisy(test, 60))
    values = {}
    for name in ("fresh", "noisy"):
        settings = ["extractor.name=digits_v1", f"out={name}.json"]
        done = diffexp("score", name, "real", *settings, cwd=tmp_path, **cache)
        assert "180 images against 300 images of real" in done.stdout
        assert "nn_distance_ratio" not in done.stdout  # nobody was trained on these
        values[name] = json.loads((tmp_path / f"{name}.json").read_text())["scores"]
    assert values["fresh"]["fd"]["value"] < values["noisy"]["fd"]["value"]
    assert values["fresh"]["kd"]["value"] < values["noisy"]["kd"]["value"]


def test_published_statistics_give_the_distance_alone(tmp_path, cache):
    np.savez(tmp_path / "images.npz", images=digits()[:200].permute(0, 2, 3, 1).numpy())
    first = diffexp("score", "images.npz", "digits", "out=all.json", cwd=tmp_path, **cache)
    path = first.stdout.rpartition("reference (mu and sigma): ")[2].strip()
    with np.load(path) as file:
        np.savez(tmp_path / "published.npz", mu=file["mu"], sigma=file["sigma"])
    settings = ["extractor.name=digits_v1", "out=fd.json"]
    done = diffexp("score", "images.npz", "published.npz", *settings, cwd=tmp_path, **cache)
    assert "precision" not in done.stdout
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("all", "fd"))
    assert one["scores"]["fd"]["value"] == other["scores"]["fd"]["value"]
    assert one["protocol"] != other["protocol"]


PIXELS = torch.zeros(50, 8, 8, dtype=torch.uint8).numpy()


@pytest.mark.parametrize(
    ("arrays", "overrides", "message"),
    [
        ({"images": PIXELS.astype(np.float32)}, [], "images: expected uint8 pixels in 0 … 255, got float32"),
        ({"other": PIXELS}, [], "expected an array images or arr_0, got other"),
        ({"images": PIXELS[0]}, [], r"expected (N, H, W) or (N, H, W, C)"),
        ({"images": PIXELS[:10]}, [], "at least 40 images for the 32 features of digits_v1, got 10"),
        ({"images": PIXELS}, ["count=60"], "count: expected at most 50, the images in images.npz, got 60"),
        ({"images": np.zeros((50, 9, 9), np.uint8)}, [], "digits_v1: expected images (1, 8, 8)"),
        ({"images": PIXELS}, ["extractor.name=nothing"], "expected a known extractor (classifier, clip"),
        ({"images": PIXELS}, ["extractor.name=classifier"], "extractor.weights: required key is missing"),
        ({"images": PIXELS}, ["reference.cache=images.npz/x"], "cannot be written"),
        ({"images": PIXELS}, ["out=images.npz/x.json"], "out: expected a writable folder, got"),
        (
            {"images": PIXELS},
            ["extractor={'name': 'inception', 'weights': 'no.pth'}"],
            "got no.pth, which does not exist. Correct the path, or set it to null, which downloads the weights.",
        ),
    ],
)
def test_bad_input_to_score_is_one_message(tmp_path, cache, arrays, overrides, message):
    np.savez(tmp_path / "images.npz", **arrays)
    done = diffexp("score", "images.npz", "digits", *overrides, cwd=tmp_path, expect=2, **cache)
    assert message in done.stderr
    assert done.stderr.count("\n") < 4


def test_files_that_are_no_images_of_one_size_are_told(tmp_path, cache):
    write_images(tmp_path / "images", digits()[:50])
    Image.new("L", (9, 9)).save(tmp_path / "images" / "z.png")
    done = diffexp("score", "images", "digits", cwd=tmp_path, expect=2, **cache)
    assert "expected images of one size, got 0000.png: 8×8, z.png: 9×9" in done.stderr
    (tmp_path / "images" / "z.png").write_text("no image")
    done = diffexp("score", "images", "digits", cwd=tmp_path, expect=2, **cache)
    assert "cannot decode 1 of 51 files: z.png (not an image)" in done.stderr
    (tmp_path / "damaged.npz").write_text("no zip")
    done = diffexp("score", "damaged.npz", "digits", cwd=tmp_path, expect=2, **cache)
    assert "expected a .npz of arrays, got: " in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["score.extractor.name=fashion_mnist_v1", "score.count=128"],
            "score.extractor.name: expected an extractor of images",
        ),
        (["score.count=20"], "score.count: expected at least 40 images for the 32 features"),
        (
            ["score.extractor={'name': 'inception', 'weights': 'no.pth'}", "score.count=2048"],
            "no.pth, which does not exist. Correct the path, or set it to null, which downloads the weights.",
        ),
        (["score.reference.cache=/dev/null/x"], "reference.cache: expected a writable folder, got /dev/null"),
        (["ema=null", "sample_grid=null", "score.weights=ema"], "score.weights: expected raw when ema is null"),
        (["score.samplers.a=null"], "score.samplers: expected at least one sampler"),
    ],
)
def test_what_scores_lack_is_told_before_training_starts(tmp_path, cache, overrides, message):
    done = diffexp("train", "digits", *SMALL, SCORE, *overrides, "run_dir=run", cwd=tmp_path, expect=2, **cache)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_extractor_of_ones_own_is_trained_and_used(tmp_path, cache):
    settings = ["name=mine", "features=8", "steps=40", "shift=1"]
    done = diffexp("extractor", "digits", *settings, cwd=tmp_path, **cache)
    assert "mine.safetensors: accuracy " in done.stdout
    assert "use it with: extractor.name=classifier extractor.weights=mine.safetensors" in done.stdout
    taken = diffexp("extractor", "digits", "name=digits_v1", cwd=tmp_path, expect=2, **cache)
    assert "name: expected an unused name, got 'digits_v1'" in taken.stderr
    write_images(tmp_path / "images", digits()[:50])
    weights = "extractor={'name': 'classifier', 'weights': 'mine.safetensors'}"
    done = diffexp("score", "images", "digits", weights, cwd=tmp_path, **cache)
    assert done.stdout.startswith("fd_mine_50: ")
    done = diffexp("extractor", "digits", *settings, cwd=tmp_path, expect=2, **cache)
    assert "expected a new file, got mine.safetensors, which exists" in done.stderr


def test_paths_of_scores_mean_the_same_from_any_folder(tmp_path):
    wanted = locate.located(
        experiment(SCORE, "score.extractor={'name': 'classifier', 'weights': 'a/b'}", "score.reference.cache=~/c")
    )
    assert Path(wanted.score.extractor.weights) == Path("a/b").absolute()
    assert Path(wanted.score.reference.cache) == Path("~/c").expanduser()


def test_steps_above_t_are_left_out_aloud(run, cache):
    settings = ["steps=[5,2000]", "count=40", "repeats=1", "out=above", "samplers={'eta-02': None, 'eta-05': None}"]
    done = diffexp("evaluate", "run", *settings, cwd=run.parent, **cache)
    assert "steps: skipped 2000: more than T = 20" in done.stderr


def test_a_config_with_scores_can_be_resumed_with_other_scores(run, cache):
    assert experiment(SCORE).score is not None
    done = diffexp("train", "run", "training.max_steps=9", "score=null", "--resume", cwd=run.parent, **cache)
    assert "9 of 9 steps done" in done.stdout
