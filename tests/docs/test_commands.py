"""Every command and code block of README and docs is run, in small: two steps of training, few images, narrow networks.

What is appended to a command only makes it smaller; its own words are run as they stand.
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffexp.config.load import load_experiment
from tests.helpers.needs import write_stand_ins
from tests.helpers.shared import shared_folder
from tests.helpers.small import diffexp, fit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

NARROW = ["model.network.base_channels=8", "model.network.norm_num_groups=4"]
BRIEF = ["training.max_steps=2", "training.batch_size=8", "sample_grid=null", "score=null", "loggers=[csv]"]
FEW = ["count=130", "repeats=1", "reference.count=300"]
SMALLER = {
    "train": BRIEF,
    "sample": ["count=2", "sampler.steps=3"],
    "evaluate": [*FEW, "steps=[2]", "samplers.ddpm=null"],
    "score": ["reference.count=300"],
    "extractor": ["steps=2"],
}

# Commands that are run elsewhere, by the start of their line.
ELSEWHERE = {
    "make": "by CI; the quickstart is diffexp train digits",
    "pip install": "by CI, of all extras",
    "wandb ": "tests/integration/test_wandb.py, with the same files",
    "python -m tests.helpers.chaos": "tests/integration/test_chaos.py",
    "python benchmarks/families": "tests/test_benchmarks.py, for some steps of one family",
    "python benchmarks/spacings": "tests/test_benchmarks.py compares its functions with simulations",
    "python docs/results/": "train for minutes, or draw what sweeps and tables have found; tests/docs/test_results.py",
    "python docs/images/paired.py": "draws what an evaluation has found; tests/docs/test_images.py",
    "diffexp import ": "tests/convert/test_import.py",
    "diffexp sweep best ": "tests/integration/test_sweeps.py, as it needs a sweep that has ended",
    "diffexp sweep extend ": "tests/sweeps/test_extend.py",
    "diffexp train digits --seeds ": "tests/integration/test_replicates.py",
    "diffexp sweep plan timesteps --seeds ": "tests/sweeps/test_pilot.py",
    "diffexp sweep plan runs/timesteps": "tests/sweeps/test_pilot.py",
    "diffexp dashboard push": "tests/reports/test_dashboard.py",
    "diffexp reproduce ENTITY": "tests/reports/test_dashboard.py",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with all that the pages name."""
    return shared_folder(tmp_path_factory, "world", make_world)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The folder of statistics of real images, for all pages."""
    return shared_folder(tmp_path_factory, "cache-of-docs", lambda folder: None)


def make_world(folder):
    scored = "'every': 100, 'count': 130, 'samplers': {'ddim-50': {'name': 'ddim', 'steps': 5}, 'ddpm': None}"
    small = ["sample_grid=null", "loggers=[csv]", "model.timesteps=1000", "model.schedule.beta_end=0.02"]
    for name in ("digits-1", "v-1", "digits_classes-1"):
        classes = ["model.classes=10"] if "classes" in name else []
        fit(folder / "runs" / name, *small, f"score={{{scored}}}", "checkpoint.monitor=train/loss", *classes)
    for name, other in (("digits-2", "digits-1"), ("epsilon-1", "v-1")):
        shutil.copytree(folder / "runs" / other, folder / "runs" / name)
    large = ["data={'name': 'digits', 'image_size': 32}", "model.network.attention_resolutions=[]"]
    large += ["model.network.channel_multipliers=[1,1,1,1]", "model.network.num_res_blocks=1"]
    large.append(f"score={{'extractor': {{'name': 'fashion_mnist_v1'}}, {scored}}}")
    fit(folder / "runs" / "fashion_mnist-1", *small, *large)
    shutil.copytree(folder / "runs" / "fashion_mnist-1", folder / "runs" / "fashion_mnist-2")
    trials = folder / "runs" / "timesteps" / "trials"
    for index in range(2):
        shutil.copytree(folder / "runs" / "digits-1", trials / f"000{index}-x")
    (folder / "runs" / "timesteps" / "plan.json").write_text("{}")
    for name, count in (("a", 200), ("b", 200), ("samples", 200)):
        side = 32 if name == "samples" else 8
        images = np.random.default_rng(count).integers(0, 256, (count, side, side, 1), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", images=images)
    (folder / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 36), (30 * number, 0, 99)).save(folder / "photos" / f"{number}.png")
    for number in range(320):
        image = folder / "flowers" / ("daisy", "rose")[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 36), (number % 256, 0, 99 * (number % 2))).save(image)
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")


def blocks(page, *languages):
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def write_named_blocks(page, folder):
    """Write the code blocks whose first line names a file."""
    for text in blocks(page, "python", "yaml"):
        head = re.match(r"# (\w+[-\w]*\.\w+)", text)
        if head:
            (folder / head[1]).write_text(text)


def commands(page):
    """The lines of shell blocks that are commands, and those in the heads of code blocks."""
    for text in blocks(page, "", "bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"(diffexp|make|wandb|python|pip|git) ", line):
                yield line
    for text in blocks(page, "python", "yaml"):
        head = re.match(r"# (\w+\.\w+) +(diffexp .*)", text)
        if head:
            yield head[2]


def is_synopsis(line):
    """Whether a line says what a command takes: FILE|DIR, [key=value …]."""
    words = line.split("   ")[0].split("#")[0]
    return bool(re.search(r"\[|…|\||\b(CONFIG|RUN|FILE|FOLDER|DIR|A B)\b", re.sub(r'"[^"]*"', "", words)))


def run_small(line, cwd, cache):
    words = shlex.split(line, comments=True)[1:]
    kind = words[0]
    if kind == "sweep":
        if words[1] == "run":
            plugins = words[words.index("--plugin") :] if "--plugin" in words else []
            words = ["sweep", "check", words[2], *plugins]
        elif "--engine" in words:  # tests/sweeps/engines/test_base.py
            words = ["sweep", "check", words[2], "--plugin", words[words.index("--plugin") + 1]]
        elif words[1] == "submit":
            words += ["--print"]
            if not (cwd / words[2]).is_dir():
                words += [f"--out={cwd / 'submitted'}"]
    elif "--data" in words:  # measures some steps
        words += [*NARROW, "training.batch_size=8"]
    elif "--resume" not in words or not (cwd / words[1]).is_dir():  # of a run that is small already
        words += SMALLER.get(kind, [])
        narrowable = "network.name" not in line and "families/" not in line
        if kind == "train" and narrowable:
            words += NARROW
        if kind == "train":
            words.append("validation.count=2" if "checkpoint.monitor" in line else "validation=null")
        if kind == "sample" and "_gan" in line:
            words.remove("sampler.steps=3")
        if "metrics=bpd" in line:
            words = [each for each in words if each not in SMALLER["evaluate"]]
            words += ["count=4", "likelihood.terms=3"]
        if kind == "evaluate" and "fashion" in line and "--table" not in line:
            words += ["samplers.t-0=null", "samplers.t-sigma-hat=null"]  # of 1000 steps
        if kind == "score" and words[2].endswith(".npz"):
            words.remove("reference.count=300")
    diffexp(*words, cwd=cwd, DIFFEXP_CACHE=str(cache))
    for file in cwd.glob("runs/*/step-00000008-ema.safetensors"):  # the pages tell of a run of 2000 steps
        file.rename(file.with_name("step-00002000-ema.safetensors"))


@pytest.mark.parametrize("page", [page for page in PAGES if [*commands(page)]], ids=lambda page: page.name)
def test_every_command_runs(page, world, cache, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(world, here)
    if any("fashion_mnist" in line for line in commands(page)):
        write_stand_ins(here / "data")
    write_named_blocks(page, here)
    for line in commands(page):
        if any(line.startswith(start) for start in ELSEWHERE):
            continue
        if is_synopsis(line):
            words = line.split()
            for name in words[2].split("|") if words[1] in ("sweep", "config", "dashboard") else [None]:
                diffexp(words[1], *([name] if name else []), "--help", cwd=here)
            continue
        run_small(line, here, cache)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_block_is_right(page, tmp_path):
    write_named_blocks(page, tmp_path)
    plugins = re.findall(r"sweep check .*(--plugin) (\w+)", page.read_text())
    for number, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        if "method:" in text:
            whole = "command:" in text
            if whole:  # others show a part of a file
                diffexp("sweep", "check", str(file), *(word for each in plugins for word in each), cwd=tmp_path)
        else:
            load_experiment(str(file))


def test_plugins_are_as_short_as_is_said():
    for text in blocks(ROOT / "docs" / "guides" / "extending.md", "python"):
        assert len(text.splitlines()) <= 30


def test_no_reason_to_leave_out_a_command_is_stale():
    every = [line for page in PAGES for line in commands(page)]
    unused = [start for start in ELSEWHERE if not any(line.startswith(start) for line in every)]
    assert unused == []
