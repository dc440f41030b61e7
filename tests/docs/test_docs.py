"""What the documentation names exists, and what is generated is current."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import diffexp
from tests.helpers import solver_errors
from tests.helpers.small import fit, script

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def generator(name):
    """The module docs/NAME.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_config_keys_is_current():
    page = ROOT / "docs" / "reference" / "config.md"
    assert page.read_text() == generator("write_reference").reference(), "run make docs"


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    listed = re.findall(r"^\.\. auto(?:class|function|exception|data|module):: diffexp\.(\w+)", page, re.MULTILINE)
    assert sorted(listed) == sorted(diffexp.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_functions_tests_and_files_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"`(diffexp(?:\.\w+)+)`", text)) - {"diffexp.json"}:
        assert resolves(name), name
    for file, test in set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)):
        assert f"def {test}(" in (ROOT / file).read_text(), test
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def resolves(name):
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def test_the_table_of_solver_errors_is_what_its_command_prints():
    assert solver_errors.table() in (ROOT / "docs" / "guides" / "solvers.md").read_text()


@pytest.mark.slow
def test_the_library_page_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "runs" / "digits-1", "training.max_steps=1", "sample_grid=null")

    class Network(torch.nn.Conv2d):
        def forward(self, x, t):
            return torch.tanh(super().forward(x)) + t.view(-1, 1, 1, 1) / 1000

    names = {"network": Network(1, 1, 3, padding=1)}
    load, train, samplers, trainer, metrics = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "guides" / "library.md").read_text(), re.DOTALL
    )
    exec(load, names)
    assert (names["images"].shape, names["images"].dtype) == ((16, 1, 8, 8), torch.uint8)
    exec(train.replace('max_steps=100"', 'max_steps=1", "sample_grid=null"'), names)
    assert names["outcome"].step == 1
    capsys.readouterr()
    exec(samplers, names)
    assert [line.split(" torch")[0] for line in capsys.readouterr().out.splitlines()] == [*names["samplers"]]
    before = names["network"].weight.clone()
    exec(trainer, names)
    assert not torch.equal(before, names["network"].weight)
    capsys.readouterr()
    exec(metrics, names)
    assert capsys.readouterr().out.startswith("Estimate(value=")


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "runs" / "digits-1", "training.max_steps=1", "sample_grid=null")
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(example.replace("max_steps=20", "max_steps=1"), {})
    *samplers, trained = capsys.readouterr().out.splitlines()
    assert samplers == [f"{name} torch.Size([16, 1, 8, 8]) torch.uint8" for name in ("ddpm", "ddim", "unipc")]
    assert trained.endswith(" 1")


@pytest.mark.slow
def test_the_noise_schedule_of_the_tutorial_is_what_it_claims(tmp_path):
    page = (ROOT / "docs" / "tutorials" / "noise_schedule.md").read_text()
    module, check = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "logsnr_linear.py").write_text(module)
    show = "    print(*schedule.alphas_cumprod[[0, 500, 999]].tolist(), schedule.terminal_signal)"
    (tmp_path / "page.py").write_text(check)
    printed = script(tmp_path / "page.py", cwd=tmp_path).stdout.splitlines()
    assert f"It is {float(printed[0].split()[-1]):.3g} here." in page
    (tmp_path / "check.py").write_text(re.sub(r"^    print.*$", show, check, flags=re.MULTILINE))
    ours, cosine = (
        [float(word) for word in line.split()]
        for line in script(tmp_path / "check.py", cwd=tmp_path).stdout.splitlines()
    )
    log_snr = torch.tensor(ours[:3], dtype=torch.float64).logit()
    torch.testing.assert_close(log_snr, torch.tensor([9, 9 - 500 * 18 / 999, -9], dtype=torch.float64))
    stated = [float(value) for value in re.findall(r"^\| `\w+` \| (\S+) \|", page, re.MULTILINE)]
    assert stated[:2] == [float(f"{ours[3]:.3g}"), float(f"{cosine[3]:.3g}")]
    assert len(module.splitlines()) == int(re.search(r"a module of (\d+) lines", page)[1])
