"""Configs, checkpoints and sweep files that somebody hands over are data: reading them runs nothing."""

import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
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
