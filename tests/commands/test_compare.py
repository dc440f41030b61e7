"""The verdict on two runs, groups of seeds or sweeps, against scipy's tests and closed forms."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from diffexp.cli.main import cli
from diffexp.commands.compare import compare_groups
from diffexp.errors import UserError
from diffexp.runs.validations import RecordedValidation, validation_file, write_validation
from diffexp.statistics.influence import Influence
from diffexp.sweeps.plan import Sweep, make_plan
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, write_state
from tests.helpers.scored import write_evaluation
from tests.helpers.scored_run import NAME, scored_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def group(folder, name, values, lr, seeds=None):
    for seed, value in zip(seeds or range(len(values)), values, strict=True):
        scored_run(folder / f"{name}-{seed}", value, seed, lr)
    return f"{name}-*"


def numbers(sentence):
    return [float(each) for each in re.findall(r"−?\d+\.\d+", sentence.replace("−", "-"))]


def test_groups_are_paired_by_seed(folder):
    one, two = [1.0, 2.1, 3.05, 4.2], [0.7, 1.85, 2.72, 3.9]
    found = compare_groups([group(folder, "a", one, 1e-3), group(folder, "b", two, 2e-3)], None)
    paired = stats.ttest_rel(two, one)
    low, high = paired.confidence_interval()
    assert found.verdict.outcome == "better"
    assert found.verdict.difference.p == pytest.approx(paired.pvalue)
    assert found.verdict.sentence == (
        f"B is better: {NAME} of ddim-eta0 (5 calls) is lower by {np.mean(one) - np.mean(two):.3g} "
        f"(95 % interval {-high:.3g} to {-low:.3g}; paired by 4 seeds)."
    )
    assert compare_groups(["b-*", "a-*"], None).verdict.sentence.startswith("B is worse")
    (row,) = json.loads(found.json())["compared"]
    assert row["values"] == [one, two]


def test_groups_of_other_seeds_are_compared_unpaired(folder):
    one, two = [1.0, 2.1, 3.05], [1.2, 2.3, 3.9, 2.8]
    found = compare_groups([group(folder, "a", one, 1e-3), group(folder, "b", two, 2e-3, seeds=range(5, 9))], None)
    test = stats.ttest_ind(two, one)
    assert found.verdict.outcome == "indistinguishable"
    assert found.verdict.difference.p == pytest.approx(test.pvalue)
    assert found.verdict.difference.interval() == pytest.approx(tuple(test.confidence_interval()))
    assert "A and B are not distinguishable by" in found.verdict.sentence


def test_the_number_of_seeds_that_would_decide(folder):
    one, two = [1.0, 2.1, 3.05, 4.2], [1.1, 2.0, 3.35, 4.35]
    sentence = compare_groups([group(folder, "a", one, 1e-3), group(folder, "b", two, 2e-3)], None).verdict.sentence
    d, sd = np.mean(np.subtract(two, one)), np.std(np.subtract(two, one), ddof=1)
    powers = {}
    for n in range(2, 60):
        t = stats.t.ppf(0.975, n - 1)
        powers[n] = stats.nct.sf(t, n - 1, d / sd * n**0.5) + stats.nct.cdf(-t, n - 1, d / sd * n**0.5)
    needed = min(n for n, power in powers.items() if power >= 0.8)
    assert f" If the true difference is the observed one, {needed} seeds each would decide it (80 % power)." in sentence


def images(folder, shift, spread):
    """Two runs of one seed, whose score is a mean over 100 images; the differences are N(shift, spread²)."""
    random = np.random.default_rng(0)
    one = random.normal(2, 1, 100)
    difference = random.normal(0, 1, 100)
    two = one + shift + spread * (difference - difference.mean()) / difference.std(ddof=1)
    scored_run(folder / "a", one.mean(), lr=1e-3, influence=Influence.linear(one, 100))
    scored_run(folder / "b", two.mean(), lr=2e-3, influence=Influence.linear(two, 100))
    return stats.ttest_rel(two, one)


def test_runs_of_one_seed_are_paired_by_image(folder):
    paired = images(folder, -0.5, 1.0)
    found = compare_groups(["a", "b"], None)
    assert found.verdict.difference.interval() == pytest.approx(tuple(paired.confidence_interval()), rel=1e-5)
    assert "lower by 0.5 (95 % interval 0.302 to 0.698; paired over 100 images)." in found.verdict.sentence
    assert "With one seed each, this holds for these trainings and not for their settings" in found.verdict.sentence


def test_the_number_of_images_that_would_decide(folder):
    images(folder, 0.1, 1.0)
    sentence = compare_groups(["a", "b"], None).verdict.sentence
    needed = int(re.search(r"observed one, ([\d,]+) images each would decide", sentence)[1].replace(",", ""))
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert needed == pytest.approx((z / 0.1) ** 2, rel=0.05)  # 785, rounded up to two digits
    assert needed >= (z / 0.1) ** 2


def test_runs_without_seeds_and_errors_have_no_verdict(folder):
    scored_run(folder / "a", 1.0, lr=1e-3)
    scored_run(folder / "b", 2.0, lr=2e-3)
    found = compare_groups(["a", "b"], None)
    assert found.verdict.outcome == "unknown"
    assert found.verdict.sentence.startswith("No verdict: A and B have one seed each")
    scored_run(folder / "c", 2.0, lr=3e-3, protocol="other")
    assert "have no score of one protocol in common" in compare_groups(["a", "c"], None).text()


def test_the_step_is_the_last_common_one(folder):
    for step in (4, 8):
        scored_run(folder / "a", 1.0 + step, lr=1e-3, step=step)
    for step in (4, 6):
        scored_run(folder / "b", 2.0 + step, lr=2e-3, step=step)
    scored_run(folder / "c", 3.0, lr=3e-3, step=7)
    assert json.loads(compare_groups(["a", "b"], None).json())["compared"][0]["steps"] == [4, 4]
    assert json.loads(compare_groups(["a", "c"], None).json())["compared"][0]["steps"] == [8, 7]


def test_several_groups_have_a_best_one(folder):
    values = {"a": [1.0, 2.0, 3.06], "b": [1.05, 2.0, 3.1], "c": [5.1, 6.3, 7.0]}
    names = [group(folder, name, each, lr) for (name, each), lr in zip(values.items(), (1e-3, 2e-3, 3e-3), strict=True)]
    sentence = compare_groups(names, None).verdict.sentence
    assert sentence.startswith(f"a-0 … a-2 has the best {NAME} of ddim-eta0 (5 calls), 2.02, but is not ")
    assert (
        "distinguishable from b-0 … b-2; it differs from c-0 … c-2 (paired by 3 seeds; 5 % over all pairs)." in sentence
    )


def test_a_metric_by_name(folder):
    one, two = [1.0, 2.1, 3.05], [0.7, 1.85, 2.72]
    names = [group(folder, "a", one, 1e-3), group(folder, "b", two, 2e-3)]
    found = compare_groups(names, "train/loss")
    assert found.measure.label == "train/loss"
    assert found.verdict.difference.value == pytest.approx((np.mean(two) - np.mean(one)) / 10)
    assert [each.name for each in found.pairs][1:] == [f"{NAME} of ddim-eta0 (5 calls)"]
    with pytest.raises(UserError, match=rf"--metric: expected a metric that all groups have \({NAME}\), got nosuch"):
        compare_groups(names, "nosuch")


def sweep(folder, name, values):
    """A planned sweep whose trials have ended with these values, by learning rate and seed."""
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", "score.count=100", "--trial", name, "${args_json}"],
        "metric": {"name": f"score/{NAME}_best", "goal": "minimize"},
        "parameters": {
            "optim": {"parameters": {"lr": {"values": list(values)}}},
            "seed": {"values": list(range(len(next(iter(values.values())))))},
        },
    }
    planned = make_plan(parse_sweep(content, "s.yaml"), 0, folder / name)
    for each in planned.trials():
        lr, seed = each.trial.parameters["optim"]["lr"], each.trial.parameters["seed"]
        scored_run(each.run.path, values[lr][seed], seed, lr)
        write_state(each, TrialState("done", step=8, steps=8))
    return name


def test_two_sweeps_are_compared_setting_by_setting(folder):
    one = {0.001: [1.0, 2.1, 3.05], 0.002: [5.0, 6.0, 7.1]}
    two = {0.001: [0.7, 1.85, 2.72], 0.002: [5.1, 5.9, 7.3], 0.003: [1.0, 1.0, 1.0]}
    found = compare_groups([sweep(folder, "a", one), sweep(folder, "b", two)], None)
    tests = [stats.ttest_rel(two[lr], one[lr]) for lr in (0.001, 0.002)]
    assert [each.difference.p for each in found.pairs] == pytest.approx([each.pvalue for each in tests])
    p = sorted(each.pvalue for each in tests)
    assert sorted(each.adjusted for each in found.pairs) == pytest.approx([2 * p[0], max(2 * p[0], p[1])])
    d = np.array([np.subtract(two[lr], one[lr]) for lr in (0.001, 0.002)])  # differences by setting and seed
    assert found.verdict.difference.value == pytest.approx(d.mean())
    # a seed may move all settings of a sweep alike
    assert found.verdict.difference.p == pytest.approx(stats.ttest_1samp(d.mean(axis=0), 0).pvalue)
    assert f"the mean of score/{NAME}_best over 2 settings" in found.verdict.sentence
    assert "paired by 3 seeds, as means over 2 settings" in found.verdict.sentence
    assert found.verdict.sentence.endswith("B is better in 1, worse in 0, indistinguishable in 1 of 2 shared settings.")
    with pytest.raises(UserError, match="a: expected a sweep over seeds alone, or two sweeps, got one of 2 settings"):
        compare_groups(["a", "b/trials/0000-lr=0.001,seed=0"], None)


def test_two_sweeps_of_one_seed_are_paired_by_setting(folder):
    one, two = {0.001: [1.0], 0.002: [5.0], 0.003: [7.0]}, {0.001: [0.7], 0.002: [4.6], 0.003: [6.8]}
    found = compare_groups([sweep(folder, "a", one), sweep(folder, "b", two)], None)
    paired = stats.ttest_rel([0.7, 4.6, 6.8], [1.0, 5.0, 7.0])
    assert found.verdict.difference.p == pytest.approx(paired.pvalue)
    assert "over 3 settings as replicates" in found.verdict.sentence


def test_seeds_that_only_one_group_has_do_not_count_in_a_paired_difference(folder):
    one, two = [1.0, 2.1, 3.05, 9.0], [0.7, 1.85, 2.72]
    found = compare_groups([group(folder, "a", one, 1e-3), group(folder, "b", two, 2e-3)], None)
    assert found.verdict.difference.p == pytest.approx(stats.ttest_rel(two, one[:3]).pvalue)
    assert "paired by 3 seeds" in found.verdict.sentence


def test_one_sweep_is_compared_by_its_settings(folder):
    values = {0.001: [1.0, 2.1, 3.05], 0.002: [5.0, 6.0, 7.1]}
    found = compare_groups([sweep(folder, "a", values)], None)
    assert [label for label, _ in found.groups.values()] == ["lr=0.001", "lr=0.002"]
    assert found.verdict.sentence.startswith(f"B is worse: score/{NAME}_best is higher by")
    assert found.verdict.difference.p == pytest.approx(stats.ttest_rel(values[0.001], values[0.002]).pvalue)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a-*", "b-0"], "a-*: expected runs that differ only in seeds, got runs that differ in optim.lr"),
        (["b-0,b-1", "b-0"], "b-0: expected each run in one group, got it 2 times. Remove one."),
        (["b-0,c-0", "b-1"], "b-0,c-0: expected runs with different seeds, got the same seed twice. Remove one."),
        (["nosuch", "b-0"], "nosuch: expected the directory of a run"),
        (["nosuch*", "b-0"], "nosuch*: expected a pattern of run directories, got one that matches none."),
    ],
)
def test_groups_that_cannot_be_compared_are_refused(folder, groups, message):
    scored_run(folder / "a-0", 1.0, 0, 1e-3)
    scored_run(folder / "a-1", 1.0, 1, 2e-3)
    group(folder, "b", [1.0, 2.0], 1e-3)
    scored_run(folder / "c-0", 1.0, 0, 1e-3)
    with pytest.raises(UserError) as refused:
        compare_groups(groups, None)
    assert str(refused.value).startswith(message)


def test_trials_are_listed_with_the_commas_in_their_names(folder):
    sweep(folder, "a", {0.001: [1.0, 2.1, 3.05], 0.002: [5.0, 6.0, 7.1]})
    first = ",".join(f"a/trials/000{seed}-lr=0.001,seed={seed}" for seed in range(3))
    found = compare_groups([first, "a/trials/*lr=0.002*"], None)
    assert [len(runs) for _, runs in found.groups.values()] == [3, 3]


def test_the_command_ends_with_the_verdict(folder):
    group(folder, "a", [1.0, 2.1, 3.05], 1e-3)
    group(folder, "b", [0.7, 1.85, 2.72], 2e-3)
    done = CliRunner().invoke(cli, ["compare", "a-*", "b-*"])
    assert done.exit_code == 0
    assert done.output.splitlines()[-1].startswith("B is better: ")
    assert "| optim.lr " in done.output
    record = json.loads(CliRunner().invoke(cli, ["compare", "a-*", "b-*", "--json"]).output)
    assert record["verdict"]["outcome"] == "better"
    assert record["differs"] == {"optim.lr": {"A": ["0.001"], "B": ["0.002"]}}
    alone = CliRunner().invoke(cli, ["compare", "a-0"])
    assert (alone.exit_code, "# Cost" in alone.output, "verdict" in alone.output.lower()) == (0, True, False)


def test_it_imports_no_torch(folder):
    code = "import sys, diffexp.commands.compare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_losses_on_held_out_images_are_paired_by_image(folder):
    random = np.random.default_rng(0)
    one = random.normal(3, 1, 50).astype(np.float32)
    two = one - random.normal(0.1, 0.2, 50).astype(np.float32)
    for name, lr, bits in (("a", 1e-3, one), ("b", 2e-3, two)):
        scored_run(folder / name, 1.0, lr=lr)
        numbers, none = np.arange(50), np.zeros(0, np.float32)
        losses = {"raw": bits, "train": bits}
        (folder / name / "validation").mkdir()
        file = validation_file(folder / name / "validation", 8)
        write_validation(RecordedValidation(8, "v", losses, {}, none, numbers, numbers), file)
    found = compare_groups(["a", "b"], "bits_per_dim")
    assert found.verdict.difference.p == pytest.approx(stats.ttest_rel(two, one).pvalue, rel=1e-3)
    assert found.verdict.sentence.startswith("B is better: held-out bits/dim (raw weights) is lower by")
    assert "paired over 50 images" in found.verdict.sentence


def test_a_setting_that_lacks_a_seed_is_not_compared_and_named(folder):
    """Its remaining mean may be that of the lucky seeds."""
    name = sweep(folder, "a", {0.001: [1.0, 2.1, 3.05], 0.002: [5.0, 6.0, 7.1], 0.003: [0.1, 0.2, 0.3]})
    trials = Sweep(folder / name).trials()
    write_state(trials[-1], TrialState("failed"))
    sentence = compare_groups([name], None).verdict.sentence
    assert sentence.endswith("Not compared, because a trial has no result: lr=0.003.")


def test_samplers_of_one_training_are_compared_by_their_images(folder):
    random = np.random.default_rng(0)
    luck = 5 * random.normal(size=300)
    one, two = luck + random.normal(size=300), luck + 0.5 + random.normal(size=300)
    for name, eta, numbers in (("a", 0.0, one), ("b", 0.5, two)):
        write_evaluation(folder / name, {eta: [numbers]})
    found = compare_groups(["a", "b"], None)
    expected = stats.ttest_rel(two, one)
    assert found.verdict.difference.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.verdict.sentence.startswith("B is worse: fd_e_300 is higher by")
    assert "training moves FID" not in found.verdict.sentence  # both are of one training


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_value_that_is_not_finite_gives_no_verdict_and_no_crash(folder, broken):
    scored_run(folder / "a", 1.0, lr=1e-3)
    scored_run(folder / "b", broken, lr=2e-3)
    assert compare_groups(["a", "b"], None).verdict.outcome == "unknown"
    group(folder, "c", [1.0, broken], 1e-3)
    assert compare_groups(["a", "c-*"], None).text()


def test_a_sweep_in_a_list_is_a_mistake(folder):
    name = sweep(folder, "a", {0.001: [1.0, 2.0], 0.002: [2.0, 3.0]})
    scored_run(folder / "b", 1.0)
    with pytest.raises(UserError, match=r"a,b: expected runs in a list, got the sweep a\. Give it"):
        compare_groups([f"{name},b"], None)
