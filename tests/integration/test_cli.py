"""The command line as a user meets it."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.checkpoints.file import averaged, read_checkpoint, write_checkpoint
from diffexp.checkpoints.load import load_trained
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.cli.main import cli, main
from diffexp.commands.export import export
from diffexp.commands.sample import default_out, save
from diffexp.commands.sample_out import check_out
from diffexp.commands.score import score
from diffexp.config.load import load_sample_request
from diffexp.config.schemas.requests import ExportRequest
from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.data.images import to_uint8
from diffexp.errors import UserError
from diffexp.evaluation.table import ScoreTable
from diffexp.models.build import build_model
from tests.helpers.small import SMALL, diffexp, experiment, fit, metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("cli") / "run"
    fit(run_dir)
    return run_dir


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["config"], ["config", "show"], ["config", "diff"]])
def test_help_is_quick_because_it_imports_nothing_heavy(command, tmp_path):
    code = (
        "import sys\nsys.argv = ['diffexp', *sys.argv[1:], '--help']\n"
        "import diffexp.cli.main\n"
        "try: diffexp.cli.main.main()\n"
        "finally: print([m for m in ('torch', 'lightning', 'wandb', 'numpy', 'omegaconf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: diffexp")
    assert done.stdout.endswith("[]\n")


def commands(group=cli, words=()):
    """Every command and group, with the words that call it."""
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


@pytest.mark.parametrize(
    ("words", "command"), [*commands()], ids=[" ".join(words) or "diffexp" for words, _ in commands()]
)
def test_help_has_a_valid_example_and_explains_every_parameter(words, command):
    for width in (80, 100):
        context = click.Context(command, info_name=" ".join(("diffexp", *words)), terminal_width=width)
        text = command.get_help(context)
        assert max(map(len, text.splitlines())) <= width
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
        elif parameter.metavar not in ("[KEY=VALUE]...", None):
            assert parameter.metavar.split("|")[0].rstrip(".") in command.help
        else:
            assert "KEY=VALUE" in command.help or parameter.human_readable_name in command.help
    (example,) = re.findall(r"Example:\n +(diffexp .*)", text)
    called, arguments = cli, shlex.split(example.partition(" > ")[0])[1:]
    assert arguments[: len(words)] == list(words)
    while isinstance(called, click.Group):
        called = called.commands[arguments.pop(0)]
    called.make_context("", arguments)


def test_help_lists_the_exit_codes():
    assert re.findall(r"^ +(\d+|128 \+ n)  ", cli.help, re.MULTILINE) == ["0", "1", "2", "75", "128 + n"]


@pytest.mark.slow
def test_runs_are_numbered(tmp_path):
    for number in (1, 2):
        done = diffexp(
            "train", "digits", *SMALL, "training.max_steps=1", "sample_grid=null", "loggers=[]", cwd=tmp_path
        )
        assert f"1 of 1 steps done: runs/digits-{number}" in done.stdout


def test_the_table_at_the_end(tmp_path):
    out = diffexp("train", "digits", *SMALL, "training.max_steps=1", "loggers=[]", cwd=tmp_path).stdout
    assert "sampler       calls  images  seconds\n" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("ddpm", "ddim-5"))]
    assert [row[:3] for row in rows] == [["ddpm", "20", "6"], ["ddim-5", "5", "6"]]
    assert "look at runs/digits-1/samples/step-00000001.png" in out


def expected(run, weights, **settings):
    """The images that the checkpoint's weights make, built here."""
    model = build_model(experiment())
    content = torch.load(list_checkpoints(run / "checkpoints")[-1], weights_only=True)
    model.load_state_dict(averaged(content) if weights == "ema" else content["state_dict"])
    return to_uint8(model.sample(DDIMConfig(steps=5, **settings), range(7), seed=3))


COMMON = ["sampler.steps=5", "count=7", "seed=3", "precision=32-true"]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_sample_npz(run, tmp_path, weights):
    diffexp("sample", str(run), *COMMON, "out=deep/x.npz", f"weights={weights}", "batch_size=2", cwd=tmp_path)
    with np.load(tmp_path / "deep" / "x.npz") as file:
        images = torch.from_numpy(file["images"])
    assert images.shape == (7, 8, 8, 1)
    difference = images.permute(0, 3, 1, 2).int() - expected(run, weights).int()
    assert difference.abs().max() <= 1  # another batch size rounds otherwise


def test_sample_folder_and_grid_from_a_checkpoint_alone(run, tmp_path):
    checkpoint = shutil.copy(list_checkpoints(run / "checkpoints")[-1], tmp_path / "alone.ckpt")
    diffexp("sample", str(checkpoint), *COMMON, "out=pngs", "sampler.eta=0.5", cwd=tmp_path)
    files = sorted((tmp_path / "pngs").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(7)]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    assert np.abs(images.astype(int) - expected(run, "ema", eta=0.5)[:, 0].numpy()).max() <= 1
    out = diffexp("sample", "alone.ckpt", *COMMON, cwd=tmp_path).stdout
    assert out == "7 images: drawings/alone-ddim-5-count=7-seed=3.png\n"
    assert Image.open(tmp_path / "drawings" / "alone-ddim-5-count=7-seed=3.png").size == (8 * 34 + 2, 34 + 2)


def test_the_default_sampler_takes_no_more_steps_than_there_are(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    told = diffexp("sample", "run", "count=1", cwd=tmp_path).stdout
    assert told == "1 images: run/drawings/step-00000008-ddim-20-count=1.png\n"


def test_each_drawing_has_a_name_of_its_own_apart_from_the_training_s_grids(run, tmp_path):
    """Of the same step and sampler as a grid, too; another seed, count or weights is another file."""
    trained = load_trained(run)
    choices = ([], ["count=6"], ["count=6", "seed=1"], ["count=6", "weights=raw"], ["sampler.eta=0.5"])
    requests = [load_sample_request(["sampler.steps=5", *keys], trained.experiment) for keys in choices]
    places = [default_out(trained, request) for request in requests]
    assert len(set(places)) == len(choices)
    assert {place.parent for place in places} == {run / "drawings"}
    assert (run / "samples" / "step-00000008-ddim-5.png").is_file()
    with pytest.raises(UserError, match="holds the training's grids"):
        check_out(run / "samples" / "step-00000008-ddim-5.png", overwrite=True)
    (tmp_path / "x.png").write_text("mine")
    refused = diffexp("sample", str(run), "sampler.steps=5", "out=x.png", cwd=tmp_path, expect=2).stderr
    assert "got x.png, which exists. Give another out, or overwrite=true." in refused


@pytest.mark.parametrize("out", ["x.png", "x.npz", "folder"])
def test_a_place_that_holds_a_drawing_is_only_replaced_when_asked(out, tmp_path):
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 8, 8)
    first, second = tmp_path / "first" / out, tmp_path / "second" / out
    save(images, first)
    with pytest.raises(UserError, match=r"which exists\. Give another out, or overwrite=true"):
        save(images[:3], first)
    save(images[:3], first, overwrite=True)
    save(images[:3], second)
    contents = [
        {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (first.parent, second.parent)
    ]
    assert contents[0].keys() == contents[1].keys()
    assert out.endswith("npz") or contents[0] == contents[1]  # a zip holds the time
    if out == "folder":
        (first / "notes.txt").touch()
        with pytest.raises(UserError, match=r"with notes\.txt"):
            save(images, first, overwrite=True)
        assert len(list(first.iterdir())) == 4


@pytest.mark.parametrize("form", ["safetensors", "diffusers"])
def test_an_export_replaces_nothing_unless_asked(run, tmp_path, form):
    trained, out = load_trained(run), str(tmp_path / ("x" if form == "diffusers" else "x.safetensors"))
    export(trained, ExportRequest(form, "ema", out))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="which exists"):
        export(trained, ExportRequest(form, "raw", out))
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    export(trained, ExportRequest(form, "raw", out, overwrite=True))
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert before.keys() == after.keys()
    assert before != after


def test_an_evaluation_writes_over_no_run_and_no_other_table(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    alone = ["evaluate", "run", "sampler.name=ddim", "sampler.steps=5", "extractor.name=digits_v1", "count=40"]
    assert "without another run, got run" in diffexp(*alone, "out=run", cwd=tmp_path, expect=2).stderr
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    (tmp_path / "table.md").write_text("mine")
    with pytest.raises(UserError, match=r"without another table\.md"):
        ScoreTable({}, "fd", "", []).resume(tmp_path)
    (tmp_path / "scores.json").write_text("mine")
    with pytest.raises(UserError, match=r"scores\.json, which exists"):
        score(tmp_path, experiment(), [f"out={tmp_path / 'scores.json'}"])


def test_config_show_check_and_diff(run, tmp_path):
    shown = diffexp("config", "show", str(run), cwd=tmp_path).stdout
    assert shown == (run / "config.yaml").read_text()
    assert diffexp("config", "check", "digits", "seed=3", cwd=tmp_path).stdout == "digits: valid\n"
    (tmp_path / "other.yaml").write_text(shown.replace("seed: 0", "seed: 5", 1))
    assert diffexp("config", "diff", str(run), "other.yaml", cwd=tmp_path).stdout == "seed: 0 → 5\n"
    assert diffexp("config", "diff", "digits", "digits", cwd=tmp_path).stdout == ""
    (tmp_path / "none.yaml").write_text("base: [digits]\nsample_grid: null\nwandb: {tags: [a]}")
    lines = diffexp("config", "diff", "digits", "none.yaml", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith("sample_grid: {'every': 1000")
    assert lines[0].endswith("} → null")
    assert lines[1] == "wandb.tags: [] → ['a']"


MISTAKES = [
    (["trane"], "No such command 'trane'"),
    (["train"], "Missing argument 'CONFIG'"),
    (["train", "digitz"], "digitz: no such config file"),
    (["train", "digits", "optim.lrr=1"], "Did you mean optim.lr?"),
    (["train", "digits", "--plugin", "nowhere"], "--plugin nowhere: cannot be imported"),
    (["train", "digits", "--resume"], "--resume: "),
    (["train", "RUN", "run_dir=RUN"], "which holds a run. Give --resume"),
    (["train", "digits", "run_dir=full"], "run_dir: expected a new or empty directory, got full, which holds other"),
    (["train", "digits", "runs_dir=file"], "runs_dir: expected a directory, got the file file"),
    (["train", "digits", "training.accelerator=gpu"], "accelerator: "),
    (["train", "digits", "training.precision=16-mixed"], "precision: expected bf16-mixed, 32-true or auto"),
    (["train", "digits", "model.timesteps=10", "model.schedule={'name': 'linear', 'rescale': '1000/T'}",
      "sample_grid=null"], "rescale: expected a last β < 1, got 2"),
    (["train", "digits", *SMALL, "optim.lr=1e30", "training.gradient_clip_val=null", "run_dir=gone"], "diverged"),
    (["train", "digits", *SMALL, "optim.lr=1e30", "training.gradient_clip_val=null", "sample_grid=null",
      "run_dir=gone"], "diverged"),
    (["sample", "nowhere"], "nowhere: no such checkpoint or run directory"),
    (["sample", "full"], "expected a run's directory with checkpoints/step-*.ckpt"),
    (["sample", "file"], "is damaged or not a checkpoint of diffexp"),
    (["sample", "truncated.ckpt"], "is damaged or not a checkpoint of diffexp"),
    (["sample", "hostile.ckpt"], "is damaged or not a checkpoint of diffexp"),
    (["sample", "RUN", "sampler.steps=21"], "expected an integer <= model.timesteps = 20, got 21"),
    (["sample", "RUN", "sampler.step=2"], "Did you mean sampler.steps?"),
    (["sample", "RUN", "sampler.name=euler"], "expected a known sampler (ancestral, ddim, ddpm, "),
    (["sample", "RUN", "count=0"], "count: expected an integer >= 1, got 0"),
    (["sample", "RUN", "out=full"], "out: expected a new or empty folder, got full with "),
    (["sample", "RUN", f"out={'x' * 300}.png"], "File name too long"),
    (["export", "RUN", f"out={'x' * 300}.safetensors"], "File name too long"),
    (["report", "RUN", f"--out={'x' * 300}"], "File name too long"),
    (["sample", "RUN", "out=file"], "out: expected a folder of PNGs, or NAME.png or NAME.npz, got the file file"),
    (["sample", "RUN", "out=file/x.png"], "out: "),
    (["sample", "RUN", "out=x.jpg"], "out: expected NAME.png, NAME.npz or the name of a folder, got x.jpg"),
    (["report", "RUN", "--out=file"], "--out: expected a new file, got file, which exists. Give another --out"),
    (["train", "digits", "run_dir=" + "x" * 300], "File name too long"),
    (["train", "digits", "data.name=image_folder"], "data.path: "),
    (["train", "digits", "training.batch_size=3", "training.accumulate_grad_batches=2"], "expected a multiple of"),
    (["train", "digits", "training.max_steps=0"], "training.max_steps: expected an integer >= 1"),
    (["train", "digits", "optim.lr=fast"], "optim.lr: expected a number, got 'fast'"),
    (["train", "digits", "optim.betas=[0.9]"], "optim.betas: expected two numbers, got 1"),
    (["train", "digits", "optim.skip_nonfinite=-1"], "optim.skip_nonfinite: expected an integer >= 0, got -1"),
    (["train", "digits", "sample_grid.samplers.a/b={}"], "samplers"),
    (["train", "digits", "loggers=[csv,mlflo]"], "loggers"),
    (["train", "digits", "name=../x"], "name: expected a directory name"),
    (["train", "digits", "=3"], "expected a non-empty key"),
    (["train", "digits", "seed"], "expected key=value, got 'seed'"),
    (["train", "RUN", "--resume", "model.timesteps=30"], "cannot resume, as these keys change the result"),
    (["train", "RUN", "--resume", "training.max_steps=3"], "training.max_steps: expected at least 8, the steps that "),
    (["train", "RUN", "--resume", "data.name=fashion_mnist"], ""),
    (["train", "mixed", "--resume"], "ckpt: cannot resume, as these keys change the result:\n  optim.lr: "),
    (["train", "other_data", "--resume"], "data: expected the run's training images (7 images, 0), got "),
    (["train", "digits", "--trial", "x", "{"], "--trial: expected JSON, got '{'"),
    (["train", "list", "--resume"], "environment.json: expected a JSON object, got a list"),
    (["train", "bogus", "--resume", "training.precision=auto"], "environment.json: precision: expected one of "),
    (["export", "no_tensors"], "expected tensors by name, got weights in another form"),
    (["train", "file", "--resume"], "file: "),
    (["train", "truncated.ckpt", "--resume"], "expected UTF-8 text, got binary data"),
    (["export", "nowhere"], "nowhere: no such checkpoint or run directory"),
    (["export", "RUN", "out=x.pt"], "out: expected a name that ends in .safetensors, got x.pt"),
    (["export", "RUN", "weights=best"], "weights"),
    (["evaluate", "nowhere"], "nowhere: no such checkpoint or run directory"),
    (["evaluate", "RUN", "--table", "nothing"], "nothing: no such config file"),
    (["score", "nowhere", "digits"], "nowhere"),
    (["extractor", "digits"], "name"),
    (["sweep", "run", "nowhere.yaml"], "nowhere.yaml"),
    (["config", "show", "full"], "full: expected a run directory with config.yaml"),
    (["config", "diff", "digits"], "Missing argument 'SECOND'"),
]  # fmt: skip


class Hostile:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.fixture(scope="module")
def spoilt(run, tmp_path_factory):
    """A folder with files and runs that no command should take."""
    folder = tmp_path_factory.mktemp("spoilt")
    (folder / "full").mkdir()
    (folder / "full" / "something").touch()
    (folder / "file").write_text("text")
    whole = list_checkpoints(run / "checkpoints")[-1].read_bytes()
    (folder / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"config": Hostile(), "state_dict": {}}, folder / "hostile.ckpt")
    for name, change in (
        ("mixed", {"config": (run / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.5")}),
        ("other_data", {"data": "7 images, 0"}),
        ("no_tensors", {"state_dict": {"a": 1}}),
    ):
        shutil.copytree(run, folder / name)
        for file in list_checkpoints(folder / name / "checkpoints"):
            write_checkpoint({**read_checkpoint(file), **change}, file)
    for name, environment in (("list", "[]"), ("bogus", '{"precision": "bogus"}')):
        shutil.copytree(run, folder / name)
        (folder / name / "environment.json").write_text(environment)
    return folder


def contents(folder):
    return {file: file.is_file() and file.read_bytes() for file in folder.rglob("*")}


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[" ".join(command)[-60:] for command, _ in MISTAKES])
def test_a_mistake_is_one_message_and_exit_code_2(run, spoilt, command, message, monkeypatch, capsys):
    before = contents(spoilt)
    monkeypatch.chdir(spoilt)
    monkeypatch.setattr(sys, "argv", ["diffexp", *(part.replace("RUN", str(run)) for part in command)])
    with pytest.raises(SystemExit) as ended:  # any other exception would be a traceback
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    shutil.rmtree(spoilt / "gone", ignore_errors=True)  # a run that failed on its way tells how far it came
    assert contents(spoilt) == before


def test_a_warning_for_a_schedule_that_leaves_signal(tmp_path):
    overrides = [
        *SMALL,
        "training.max_steps=1",
        "sample_grid=null",
        "model.schedule={'beta_start': 1e-4, 'beta_end': 0.02}",
    ]
    done = diffexp("train", "digits", *overrides, cwd=tmp_path)
    assert "WARNING: model.schedule: expected √ᾱ_T near 0, got linear at T = 20 with √ᾱ_T = 0.904" in done.stderr


@pytest.mark.slow
def test_wandb_is_offline_when_nobody_is_logged_in(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    overrides = [*SMALL, "training.max_steps=1", "sample_grid=null", "loggers=[wandb]", "run_dir=run"]
    # that of another process would hold the ids of runs that were killed
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone")
    done = diffexp("train", "digits", *overrides, cwd=tmp_path, HOME=str(tmp_path), NETRC=str(tmp_path / "none"))
    (recorded,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    where = f"W&B: recorded offline; upload it with: wandb sync run/wandb/{recorded.name}"
    assert where in done.stdout + done.stderr
    assert "wandb" not in (done.stdout + done.stderr).replace(where, "").replace("run/wandb", "")


@pytest.mark.slow
def test_wandb_without_an_answer_is_recorded_offline(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    overrides = [*SMALL, "training.max_steps=2", "sample_grid=null", "loggers=[wandb]", "run_dir=run"]
    # nothing listens on this port of this machine
    server = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "6"}
    done = diffexp("train", "digits", *overrides, cwd=tmp_path, **server)
    assert "W&B cannot be reached, so the run is recorded offline in run/wandb" in done.stderr
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert next(offline.glob("run-*.wandb")).stat().st_size > 1000
    assert [row["step"] for row in metrics(tmp_path / "run")] == [2]


def test_output_that_cannot_be_written_changes_no_exit_code(tmp_path):
    """What is still in a buffer at the end is discarded: Python would exit with 120."""
    code = (
        "import sys; from diffexp.cli import main; main.cli = lambda **_: sys.stdout.write('no end of the line'); "
        "main.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for name in ("/dev/full", tmp_path / "file"):
        with open(name, "w") as out:
            done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=out, env=environment)
        assert done.returncode == 0
