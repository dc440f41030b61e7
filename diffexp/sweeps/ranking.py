"""Which settings of a sweep differ from its best one. The seeds of a setting are its replicates."""

from dataclasses import dataclass, replace

from diffexp.runs.reader import RunReader, full_name
from diffexp.statistics.comparison import Difference, compare
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.scores import estimate_scores
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.results import Setting, settings

_MOST = 100  # settings that are compared: the pairs grow with the square


@dataclass(frozen=True)
class Ranking:
    """The settings of a sweep and how they differ from the best one.

    Attributes:
        settings: the settings, best mean first; incomplete ones come last.
        differences: by position in `settings`, the setting minus the best one; {} if nothing can be compared.
        replicates: what the seeds of a setting draw: "seeds", or "image seeds" of one training.
        advice: how to add seeds; "" if no command does.
    """

    settings: list[Setting]
    differences: dict[int, Difference]
    replicates: str
    advice: str = ""

    @property
    def ties(self) -> list[int]:
        """The positions of the settings that are indistinguishable from the best one."""
        return [position for position, each in self.differences.items() if not each.is_significant]

    @property
    def test(self) -> str:
        """What the differences were tested against; "" if there are none."""
        return next((each.test for each in self.differences.values()), "")

    def note(self) -> str:
        """Return sentences on how the settings were compared, for below a table."""
        valued = [each for each in self.settings if each.values]  # none without a metric
        complete = [each for each in valued if each.is_complete]
        sentences = []
        if self.differences:
            some = f"; only the {_MOST} best are compared" if len(complete) > _MOST else ""
            sentences.append(f"Bold: best mean; =: indistinguishable from it ({self.test}; 5 % over all pairs{some}).")
        elif len(complete) > 1:
            sentences.append(
                f"Each setting has one {self.replicates.removesuffix('s')}. Without further {self.replicates}, they "
                f"cannot be distinguished.{self.advice}"
            )
        if len(complete) < len(self.settings) and len(valued) > 1:
            sentences.append(f"Settings that lack {self.replicates} are not compared.")
        if any(each.interval for each in valued):
            sentences.append(f"95 % interval: Student's t over the {self.replicates} of a setting.")
        return " ".join(sentences)


def ranking(sweep: Sweep) -> Ranking:
    """Return the settings of a sweep, best mean first, each compared with the best one."""
    found = settings(sweep)
    replicates, advice = "image seeds", ""
    if sweep.file.command.kind == "train":
        replicates = "seeds"
        advice = f" Add seeds: diffexp sweep extend {sweep.path} --seeds 3." if sweep.file.method == "grid" else ""
    if sweep.file.metric is None:
        return Ranking(found, {}, replicates)
    return Ranking(found, _from_best(sweep, found, replicates), replicates, advice)


def _from_best(sweep: Sweep, found: list[Setting], replicates: str) -> dict[int, Difference]:
    """Return the difference of each complete setting from the first one, by position.

    The seeds that a setting lacks may be those that failed, so that its mean promises too much.
    """
    positions = [position for position, each in enumerate(found) if each.values and each.is_complete][:_MOST]
    if len(positions) < 2:
        return {}
    complete = [found[position] for position in positions]
    estimates = _over_images(sweep, complete) if sweep.file.command.kind == "evaluate" else None
    if estimates is None:
        estimates = over_replicates([each.by_seed for each in complete], replicates)
    if estimates is None:
        return {}
    pairs = compare(estimates).differences
    return {
        position: replace(pairs[0, number], value=-pairs[0, number].value)
        for number, position in enumerate(positions)
        if number > 0
    }


def _over_images(sweep: Sweep, found: list[Setting]) -> Estimates | None:
    """Return the scores of one training with the errors of their images; None if the metric is no recorded score."""
    assert sweep.file.metric is not None
    name = sweep.file.metric.name.removeprefix("score/")
    settings_blocks = []
    for setting in found:
        runs = [sweep.trial(row.index).run for row in setting.rows]
        scores = [score for run in runs if run is not None for score in RunReader(run.path, run.path.name).scores]
        named = [(score, metric) for score in scores for metric in ("fd", *score.others)]
        settings_blocks.append(
            [
                block
                for score, metric in named
                if full_name(metric, score.metric) == name
                for block in score.scored(metric)
            ]
        )
    return estimate_scores(settings_blocks) if all(settings_blocks) else None
