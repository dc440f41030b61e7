"""`diffexp config list` and `diffexp config diff`."""

from click.testing import CliRunner

from diffexp.cli.main import cli
from diffexp.config.sources import description, ready_configs
from diffexp.sweeps.plan import shipped_sweeps


def printed(*arguments):
    done = CliRunner().invoke(cli, ["config", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_ready_config_and_sweep_has_a_description():
    files = [*ready_configs().values(), *shipped_sweeps().glob("*.yaml")]
    assert [file.name for file in files if not 10 < len(description(file)) < 160] == []


def test_the_list_names_configs_tables_sweeps_and_components():
    lines = [" ".join(line.split()) for line in printed("list").splitlines()]
    assert "Ready configs (diffexp train NAME):" in lines
    assert "digits The quickstart: 8×8 digits" in lines
    assert any(line.startswith("evaluate/eta ") for line in lines)
    assert "schedules Compare noise schedules" in lines
    assert "schedule cosine, linear, proportional, scaled_linear, sigmoid" in lines
    trainable = lines[: lines.index("Bases of configs (base: [NAME]):")]
    assert not any(line.startswith(("base ", "families/digits ", "evaluate/")) for line in trainable)


def test_the_description_is_the_first_sentence_of_the_comment(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("# After Ho et al. 2020,\n# in 2.5 hours. More.\nname: x\n# not this\n")
    assert description(file) == "After Ho et al. 2020, in 2.5 hours"
    file.write_text("name: x\n# Not this.\n")
    assert description(file) == ""


def test_diff_of_a_config_that_lacks_a_required_key():
    lines = printed("diff", "digits", "image_folder").splitlines()
    assert "data.name: digits → image_folder" in lines
    assert "data.path: (none) → (required)" in lines
    assert printed("diff", "base", "digits").splitlines()[1].startswith("data: (required) → {'name': 'digits'")
