"""Bayesian search: Optuna's TPE (Bergstra et al. 2011), with a study rebuilt from the trials' records at every ask.

So it needs no server and no database: a worker's choice depends only on the sweep's directory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffexp.config.trial import is_seed
from diffexp.errors import UserError, requires_extra
from diffexp.sweeps.spec.file import SweepFile
from diffexp.sweeps.spec.parameters import Parameter, nested, quantised

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class PastTrial:
    """An earlier trial.

    Attributes:
        parameters: its nested parameters.
        value: its metric; lower is better; None while it runs.
        failed: whether it ended without a value.
    """

    parameters: dict[str, Any]
    value: float | None
    failed: bool = False


def check_space(sweep: SweepFile) -> None:
    """Check that Optuna can search the sweep's parameters.

    Raises:
        UserError: if Optuna is not installed or lacks a distribution.
    """
    with requires_extra(f"{sweep.source}: method: bayes", "bayes"):
        import optuna  # noqa: F401
    for parameter in sweep.parameters:
        try:
            _distribution(parameter)
        except ValueError as error:
            raise UserError(f"{sweep.source}: parameters.{parameter.key}: {error}") from error


def ask(sweep: SweepFile, seen: Sequence[PastTrial], seed: int, index: int) -> dict[str, Any]:
    """Choose the nested parameters of a trial.

    Args:
        sweep: the sweep file with the search space.
        seen: all trials with known parameters.
        seed: the sweep's seed.
        index: the trial's index.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {parameter.key: _distribution(parameter) for parameter in sweep.parameters}
    # without the index in the seed, trials that start together before any result would be equal
    sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + index) % 2**32, constant_liar=True)
    study = optuna.create_study(sampler=sampler)
    for each in seen:
        study.add_trial(_frozen(each, sweep, space))
    asked = study.ask(space).params
    return nested({parameter.path: _value(parameter, asked[parameter.key]) for parameter in sweep.parameters})


def _frozen(
    seen: PastTrial, sweep: SweepFile, space: dict[str, "optuna.distributions.BaseDistribution"]
) -> "optuna.trial.FrozenTrial":
    import optuna

    params = {each.key: _optuna_value(each, seen.parameters) for each in sweep.parameters}
    if seen.failed:
        return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, params=params, distributions=space)
    if seen.value is None:
        return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, params=params, distributions=space)
    return optuna.trial.create_trial(value=seen.value, params=params, distributions=space)


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if is_seed(parameter.key) and len(parameter.values) != 1:
        raise ValueError("expected one seed with bayes, which would search for the luckiest. Use grid or random.")
    if parameter.values:
        return CategoricalDistribution(list(range(len(parameter.values))))
    low, high = parameter.bounds()
    if low is None or high is None or parameter.distribution.endswith("beta"):
        raise ValueError(f"expected values or a range with bayes, got {parameter.distribution}. Use random.")
    if parameter.distribution == "int_uniform":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(float(low), float(high), log="log" in parameter.distribution)


def _value(parameter: Parameter, asked: Any) -> Any:
    """Convert Optuna's value: it knows listed values by their index, because it accepts no lists or mappings."""
    if parameter.values:
        return parameter.values[asked]
    return quantised(asked, parameter.numbers["q"]) if parameter.distribution.startswith("q_") else asked


def _optuna_value(parameter: Parameter, parameters: dict[str, Any]) -> Any:
    """Convert a trial's value to Optuna's."""
    node: Any = parameters
    for part in parameter.path:
        node = node[part]
    if parameter.values:
        return next(
            place for place, value in enumerate(parameter.values) if value == node and type(value) is type(node)
        )
    low, high = parameter.bounds()
    assert low is not None
    assert high is not None
    return min(max(node, low), high)  # rounding to a multiple of q may leave the range
