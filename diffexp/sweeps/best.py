"""The config of a sweep's best setting, and the settings that are indistinguishable from it."""

import yaml

from diffexp.config.load import load_experiment
from diffexp.config.renamed import with_current_names
from diffexp.config.sources import parse_yaml
from diffexp.errors import UserError
from diffexp.runs.directory import config_text
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.ranking import Ranking, ranking
from diffexp.sweeps.results import best_setting, interval_text, settings


def best_config(sweep: Sweep) -> str:
    """Return the best setting's config as a file for the command that its trials run.

    The best setting has the best mean over its seeds. The config is that of its first seed with a value, because the
    result of the luckiest seed would be biased. A comment names the settings that are indistinguishable from it.

    Raises:
        UserError: if there is none yet, or the trials differ only in seeds.
    """
    metric, best = sweep.file.metric, best_setting(sweep)
    if metric is None:
        raise UserError(f"{sweep.path}: metric: expected one to choose the best setting by, got none.")
    if best is None and any(setting.values for setting in settings(sweep)):
        (only,) = settings(sweep)
        raise UserError(
            f"{sweep.path}: expected settings to choose from, got trials that differ only in seeds "
            f"({metric.name}: {only.summary()}). Use any of their configs."
        )
    if best is None:
        raise UserError(f"{sweep.path}: expected a trial that has logged {metric.name}, got none yet. Run the sweep.")
    command = sweep.file.command
    row = next(row for row in best.rows if row.value is not None)
    head = [f"trial {row.index} of {sweep.path}, {row.name}: {metric.name} = {row.value:.6g}"]
    if best.seeds > 1:
        head.append(f"the setting with the best mean over its seeds: {best.summary()}; this is its first seed")
    head += _ties(ranking(sweep))
    use = "train THIS_FILE" if command.kind == "train" else f"evaluate {command.target} --table THIS_FILE"
    comment = "".join(f"# {line}\n" for line in [*head, f"use it with: diffexp {use}"])
    return comment + _config_that_ran(sweep, row.index)


def _ties(ranked: Ranking) -> list[str]:
    """Return lines on the settings that are indistinguishable from the best one; [] if there is only one setting."""
    complete = [each for each in ranked.settings if each.is_complete]
    if len(complete) < 2:
        return []
    if not ranked.differences:
        return [f"one {ranked.replicates.removesuffix('s')} each: indistinguishable from it without further ones"]
    if not ranked.ties:
        return [f"every other complete setting differs from it significantly ({ranked.test})"]
    lines = [f"settings that are indistinguishable from it ({ranked.test}):"]
    for position in ranked.ties:
        difference = ranked.differences[position]
        lines.append(
            f"  {ranked.settings[position].name}: {difference.value:+.4g} "
            f"(95 % interval {interval_text(difference.interval())}), p = {difference.adjusted:.2g}"
        )
    return lines


def _config_that_ran(sweep: Sweep, index: int) -> str:
    """Return the config in the trial's run directory as one of an independent run: no comment, and other names."""
    run = sweep.trial(index).run
    assert run is not None
    if sweep.file.command.kind == "train":
        names = [f"name={sweep.file.name}-best", "runs_dir=runs", "wandb.name=null", "wandb.group=null"]
        return config_text(load_experiment(str(run.config), [*names, "wandb.job_type=null", "wandb.tags=[]"]))
    values, _ = parse_yaml(run.config.read_text(), str(run.config))
    return yaml.safe_dump(with_current_names(values), sort_keys=False, allow_unicode=True)
