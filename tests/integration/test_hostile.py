"""Configs, checkpoints and sweep files that somebody hands over are data: reading them runs nothing."""

import json
import re
import resource
import shutil
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffexp.checkpoints.file import read_checkpoint, write_checkpoint
from diffexp.checkpoints.load import load_trained
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.cli.main import main
from tests.helpers.small import diffexp, fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("hostile") / "run"
    fit(run_dir, "sample_grid=null", "optim.decay=none")
    return run_dir


class Hostile:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.fixture
def handed_over(run, tmp_path):
    """A folder with a hostile file for every command that reads one."""
    content = read_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    (tmp_path / "bad" / "checkpoints").mkdir(parents=True)
    (tmp_path / "bad" / "config.yaml").write_text((run / "config.yaml").read_text())
    (tmp_path / "bad" / "environment.json").write_text((run / "environment.json").read_text())
    # sealed, because that is no secret
    write_checkpoint({**content, "extra": Hostile()}, tmp_path / "bad" / "checkpoints" / "step-00000008.ckpt")
    torch.save({**content, "extra": Hostile()}, tmp_path / "plain.ckpt")
    np.savez(tmp_path / "images.npz", images=np.array([Hostile()], dtype=object))
    (tmp_path / "config.yaml").write_text("base: [digits]\nname: !!python/object/apply:open [executed, w]\n")
    (tmp_path / "sweep.yaml").write_text(
        "method: grid\ncommand: [diffexp, train, digits, --trial, x, '${args_json}']\n"
        "parameters: {seed: {values: [!!python/object/apply:open [executed, w]]}}\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "bad"],
        ["sample", "plain.ckpt"],
        ["export", "bad"],
        ["evaluate", "bad"],
        ["train", "bad", "--resume"],
        ["score", "images.npz", "digits"],
        ["train", "config.yaml"],
        ["config", "show", "config.yaml"],
        ["config", "show", "digits", "name=!!python/object/apply:open [executed, w]"],
        ["sweep", "check", "sweep.yaml"],
        ["sweep", "plan", "sweep.yaml"],
    ],
    ids=" ".join,
)
def test_nothing_is_run(handed_over, command, monkeypatch, capsys):
    monkeypatch.chdir(handed_over)
    monkeypatch.setattr(sys, "argv", ["diffexp", *command])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(("error: ", "WARNING: "))
    assert "weights_only" not in err  # a word that invites to switch it off
    assert not (handed_over / "executed").exists()


def test_an_address_is_no_file(handed_over):
    """Lightning would fetch it, and run what it holds."""
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: SimpleHTTPRequestHandler(*args, directory=str(handed_over))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/plain.ckpt"
    err = diffexp("sample", address, cwd=handed_over, expect=2).stderr
    assert "no such checkpoint or run directory" in err
    server.shutdown()
    assert not (handed_over / "executed").exists()


# --- exported files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ema", "raw"])
def test_an_exported_file_samples_as_its_checkpoint(run, tmp_path, kind):
    told = diffexp("export", str(run), f"weights={kind}", "out=x.safetensors", cwd=tmp_path).stdout
    assert "x.safetensors" in told
    common = ["sampler.steps=5", "count=3", f"weights={kind}"]
    diffexp("sample", "x.safetensors", *common, "out=from-export.npz", cwd=tmp_path)
    diffexp("sample", str(run), *common, "out=from-run.npz", cwd=tmp_path)
    one, two = (np.load(tmp_path / f"from-{name}.npz")["images"] for name in ("export", "run"))
    assert (one == two).all()
    other = {"ema": "raw", "raw": "ema"}[kind]
    refused = diffexp("sample", "x.safetensors", f"weights={other}", "out=y.png", cwd=tmp_path, expect=2).stderr
    assert f"Use weights={kind}" in refused
    assert load_trained(tmp_path / "x.safetensors").step == 8


@pytest.mark.slow
def test_a_spoilt_or_foreign_exported_file_is_refused(run, tmp_path):
    diffexp("export", str(run), "out=x.safetensors", cwd=tmp_path)
    whole = bytearray((tmp_path / "x.safetensors").read_bytes())
    whole[-100] ^= 1
    (tmp_path / "spoilt.safetensors").write_bytes(whole)
    save_file(load_file(tmp_path / "x.safetensors"), tmp_path / "foreign.safetensors")
    (tmp_path / "short.safetensors").write_bytes(whole[:1000])
    for name, message in (("spoilt", "SHA-256"), ("foreign", "not a file of `diffexp export`"), ("short", "damaged")):
        err = diffexp("sample", f"{name}.safetensors", "out=y.png", cwd=tmp_path, expect=2).stderr
        assert message in err
    for out in ("x.pt", "."):
        assert "out: " in diffexp("export", str(run), f"out={out}", cwd=tmp_path, expect=2).stderr


# --- values that no training writes


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "x.safetensors"
    diffexp("export", str(run), f"out={path}", cwd=path.parent)
    return path


def changed_export(path, out, **about):
    """Write the exported file with other metadata, which no digest protects."""
    with safe_open(path, "pt") as file:
        save_file(load_file(path), out, {**file.metadata(), **about})
    return out


def sampled(path, capsys, monkeypatch):
    """Sample from a file in this process, which must be refused; return the message."""
    monkeypatch.setattr(sys, "argv", ["diffexp", "sample", str(path), "out=y.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 2, err
    assert str(path) in err
    return err


ABSURD = {
    "base_channels": ["1000000000", "65536", "-8", "true", "abc", ".nan", "8.5"],
    "num_res_blocks": ["1000000", "100", "0", "'2'"],
    "timesteps": ["1000000000000", "-5", "null", ".inf", "1e12"],
    "image_size": ["1000000", "16384", "-1"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ABSURD.items() for value in values])
def test_absurd_sizes_in_a_file_are_refused_before_memory_is_used(exported, tmp_path, capsys, monkeypatch, key, value):
    with safe_open(exported, "pt") as file:
        config = file.metadata()["config"]
    config, count = re.subn(rf"(?m)^( +{key}): .*$", rf"\1: {value}", config, count=1)
    assert count == 1
    path = changed_export(exported, tmp_path / "absurd.safetensors", config=config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    sampled(path, capsys, monkeypatch)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("step", ["abc", "-1", "1.5", "", "9" * 400, "\x1b[31m8"])
def test_a_step_that_is_no_number_is_refused(run, exported, tmp_path, capsys, monkeypatch, step):
    err = sampled(changed_export(exported, tmp_path / "x.safetensors", step=step), capsys, monkeypatch)
    assert "its step is" in err
    content = read_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    for value in (step, -1, 1.5, True, None, [8]):
        write_checkpoint({**content, "global_step": value}, tmp_path / "checkpoints" / "x.ckpt")
        assert "its global_step is" in sampled(tmp_path / "checkpoints" / "x.ckpt", capsys, monkeypatch)


@pytest.mark.parametrize("key", ["config", "state_dict", "callbacks", "data", "run_id", "metrics"])
def test_content_of_another_type_is_refused(run, tmp_path, capsys, monkeypatch, key):
    content = read_checkpoint(list_checkpoints(run / "checkpoints")[-1])
    write_checkpoint({**content, key: 5}, tmp_path / "checkpoints" / "x.ckpt")
    assert f"its {key} is of type int" in sampled(tmp_path / "checkpoints" / "x.ckpt", capsys, monkeypatch)


def test_a_network_larger_than_the_memory_is_refused(tmp_path):
    err = diffexp("train", "digits", "model.network.base_channels=65536", cwd=tmp_path, expect=2).stderr
    assert "model: expected at most" in err
    assert not (tmp_path / "runs").exists()


# --- characters that change a terminal

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b1m"


@pytest.mark.parametrize("key", ["format", "weights", "step", "config"])
def test_escapes_in_a_file_do_not_reach_the_terminal(exported, tmp_path, capsys, monkeypatch, key):
    value = "name: {ESCAPES}: x" if key == "config" else ESCAPES
    path = changed_export(exported, tmp_path / f"x{ESCAPES}.safetensors", **{key: value.replace("{ESCAPES}", ESCAPES)})
    monkeypatch.setattr(sys, "argv", ["diffexp", "sample", str(path), "out=y.png"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert r"x\x1b]0;title\x07\x1b[31mred\x9b1m.safetensors" in printed.err
    assert not set("\x1b\x07\x9b") & set(printed.out + printed.err)


def test_escapes_in_names_of_images_and_records_do_not_reach_the_terminal(run, tmp_path):
    folder = tmp_path / "images"
    for name in (f"a{ESCAPES}", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / f"{ESCAPES}.png")
    (folder / "b" / f"bad{ESCAPES}.png").write_text("no image")
    (folder / "b" / f"other{ESCAPES}.txt").write_text("no image")
    data = ["data.name=image_folder", "data.path=images", "data.image_size=8", "data.channels=1"]
    shutil.copytree(run, tmp_path / f"run{ESCAPES}")
    (tmp_path / f"run{ESCAPES}" / "environment.json").write_text(json.dumps({"host": ESCAPES, ESCAPES: ESCAPES}))
    for command in (
        ["config", "check", "digits", *data, "--data"],
        ["config", "check", "digits", *data, "--data", "data.on_decode_error=skip"],
        ["compare", str(run), f"run{ESCAPES}"],
    ):
        expect = 2 if command[-1] == "--data" else 0
        done = diffexp(*command, cwd=tmp_path, expect=expect)
        assert r"\x1b]0;title" in done.stdout + done.stderr
        assert not set("\x1b\x07\x9b") & set(done.stdout + done.stderr)
