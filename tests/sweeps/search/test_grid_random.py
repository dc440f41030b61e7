"""Which trials a sweep has."""

import math

import pytest
import yaml
from scipy import stats

from diffexp.sweeps.search.grid_random import known_trials
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.spec.parameters import Parameter


def sweep(parameters, **more):
    command = ["diffexp", "train", "digits", "--trial", "s", "${args_json}"]
    return parse_sweep({"method": "grid", "command": command, "parameters": parameters, **more}, "f.yaml")


GRID = {
    "model": {
        "parameters": {"timesteps": {"values": [10, 20]}, "schedule": {"parameters": {"name": {"value": "linear"}}}}
    },
    "seed": {"values": [0, 1, 2]},
}


def test_a_grid_is_every_combination_nested_the_last_fastest():
    trials = [trial.parameters for trial in known_trials(sweep(GRID), seed=0)]
    assert trials == [
        {"model": {"timesteps": steps, "schedule": {"name": "linear"}}, "seed": seed}
        for steps in (10, 20)
        for seed in (0, 1, 2)
    ]
    assert known_trials(sweep(GRID), seed=5) == known_trials(sweep(GRID), seed=0)
    assert [trial.parameters for trial in known_trials(sweep(GRID, run_cap=2), seed=0)] == trials[:2]


def test_a_random_search_is_a_function_of_seed_and_index():
    parameters = {"a": {"min": 0.0, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}}
    first = known_trials(sweep(parameters, method="random", run_cap=5), seed=0)
    longer = known_trials(sweep(parameters, method="random", run_cap=8), seed=0)
    assert longer[:5] == first
    assert known_trials(sweep(parameters, method="random", run_cap=5), seed=1) != first
    # a further parameter leaves the others as they are
    more = known_trials(sweep({**parameters, "c": {"value": 1}}, method="random", run_cap=5), seed=0)
    assert [trial.parameters["a"] for trial in more] == [trial.parameters["a"] for trial in first]
    assert first[0].parameters["a"] != first[0].parameters["b"]


LOG = (math.log(1e-4), math.log(1e-2))
DISTRIBUTIONS = [
    ("uniform", {"min": -1.0, "max": 3.0}, stats.uniform(-1, 4).cdf),
    ("log_uniform", {"min": LOG[0], "max": LOG[1]}, stats.loguniform(1e-4, 1e-2).cdf),
    ("log_uniform_values", {"min": 1e-4, "max": 1e-2}, stats.loguniform(1e-4, 1e-2).cdf),
    ("inv_log_uniform", {"min": -LOG[1], "max": -LOG[0]}, stats.loguniform(1e-4, 1e-2).cdf),
    ("inv_log_uniform_values", {"min": 1e-4, "max": 1e-2}, stats.loguniform(1e-4, 1e-2).cdf),
    ("normal", {"mu": 2.0, "sigma": 0.5}, stats.norm(2, 0.5).cdf),
    ("log_normal", {"mu": 0.5, "sigma": 0.25}, stats.lognorm(0.25, scale=math.exp(0.5)).cdf),
    ("beta", {"a": 2.0, "b": 5.0}, stats.beta(2, 5).cdf),
]


@pytest.mark.parametrize(("name", "numbers", "cdf"), DISTRIBUTIONS, ids=[name for name, *_ in DISTRIBUTIONS])
def test_distributions_are_those_of_their_names(name, numbers, cdf):
    parameter = Parameter(("x",), name, numbers=numbers)
    drawn = [parameter.draw(0, index) for index in range(2000)]
    assert stats.kstest(drawn, cdf).pvalue > 1e-3
    low, high = parameter.bounds()
    assert low is None or all(low <= value <= high for value in drawn)


def test_discrete_distributions():
    numbers = {"probabilities": [0.7, 0.2, 0.1]}
    drawn = [Parameter(("x",), "categorical", ("a", "b", "c"), numbers).draw(0, index) for index in range(3000)]
    observed = [drawn.count(value) for value in "abc"]
    assert stats.chisquare(observed, [2100, 600, 300]).pvalue > 1e-3
    whole = [Parameter(("x",), "int_uniform", numbers={"min": 1, "max": 4}).draw(0, index) for index in range(3000)]
    assert stats.chisquare([whole.count(value) for value in (1, 2, 3, 4)]).pvalue > 1e-3
    steps = [Parameter(("x",), "q_uniform", numbers={"min": 0.0, "max": 100.0, "q": 25}).draw(0, i) for i in range(200)]
    assert set(steps) == {0, 25, 50, 75, 100}
    assert all(isinstance(value, int) for value in steps)
    halves = Parameter(("x",), "q_log_uniform_values", numbers={"min": 1.0, "max": 8.0, "q": 0.5})
    assert all((2 * halves.draw(0, index)).is_integer() for index in range(50))


def test_names_are_short_unambiguous_and_do_not_depend_on_the_order():
    (first, *_) = known_trials(sweep(GRID), seed=0)
    assert first.name == "schedule=linear,timesteps=10,seed=0"
    reversed_order = known_trials(sweep(dict(reversed(GRID.items()))), seed=0)[0]
    assert reversed_order.name == first.name
    both = {"optim": {"parameters": {"eps": {"value": 1e-8}}}, "net": {"parameters": {"eps": {"value": None}}}}
    assert known_trials(sweep(both), seed=0)[0].name == "net.eps=null,optim.eps=1e-08"
    odd = {"x": {"value": "a/b c"}, "betas": {"value": [0.9, 0.999]}, "on": {"value": True}}
    assert known_trials(sweep(odd), seed=0)[0].name == "betas=0.9-0.999,on=true,x=a-b-c"
    long = {f"key{index}": {"value": "x" * 20} for index in range(10)}
    name = known_trials(sweep(long), seed=0)[0].name
    assert len(name) == 100
    assert yaml.safe_load(name) == name
