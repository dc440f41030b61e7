import logging
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffexp.checkpoints.file import read_checkpoint
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.commands.locate import resume_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_evaluate_request
from diffexp.config.schemas.experiment import OptimConfig
from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig, HeunConfig
from diffexp.config.schemas.schedules import SCHEDULES
from diffexp.diffusion import schedules
from diffexp.diffusion.schedules import Schedule
from diffexp.errors import UserError
from diffexp.models.build import build_model
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.training_noise import TrainingNoise
from diffexp.rng import PerSampleNoise
from tests.helpers.small import experiment, fit, metrics


class Echo(torch.nn.Module):
    """A network with one weight: output = w · tanh(x + t/T)."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.9))

    def forward(self, x, t):
        return self.weight * torch.tanh(x + t.view(-1, 1, 1, 1) / 100)


def module(optim=None, seed=0):
    model = DiffusionModule((1, 4, 4), Echo(), Schedule(schedules.linear(100, rescale="1000/T")))
    model.optim, model.seed = optim or OptimConfig(), seed
    return model


def test_the_loss_is_the_squared_error_of_epsilon():
    model = module()
    x0, noise = torch.rand(5, 1, 4, 4) * 2 - 1, torch.randn(5, 1, 4, 4)
    t = torch.tensor([0, 10, 50, 98, 99])
    alpha_bar = model.schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    expected = ((noise - 0.9 * torch.tanh(x_t + t.view(-1, 1, 1, 1) / 100)) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(model.loss(x0, TrainingNoise(t, noise)), (expected, expected))


def trainer(**changes):
    return SimpleNamespace(
        **{"global_step": 3, "world_size": 1, "global_rank": 0, "accumulate_grad_batches": 1, **changes}
    )


def drawn(model, size, **changes):
    model._trainer = trainer(**changes)
    model._step = changes.get("global_step", 3)
    draws = model.sample_training_noise(torch.zeros(size, 1, 4, 4))
    return draws.t, draws.noise


@settings(max_examples=60, deadline=None)
@given(
    world=st.sampled_from([1, 2, 4]),
    accumulate=st.integers(1, 3),
    share=st.integers(1, 3),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
)
def test_what_a_step_draws_does_not_depend_on_how_it_is_spread(world, accumulate, share, seed, step):
    whole_t, whole_noise = drawn(module(seed=seed), world * accumulate * share, global_step=step)
    parts = []
    for micro in range(accumulate):
        for rank in range(world):
            model = module(seed=seed)
            model._micro_batch = micro
            spread = {"world_size": world, "global_rank": rank, "accumulate_grad_batches": accumulate}
            parts.append(drawn(model, share, global_step=step, **spread))
    assert torch.equal(torch.cat([t for t, _ in parts]), whole_t)
    assert torch.equal(torch.cat([noise for _, noise in parts]), whole_noise)


@settings(max_examples=30, deadline=None)
@given(
    world=st.sampled_from([1, 2, 4]),
    batch_size=st.integers(1, 9),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**40),
    eta=st.sampled_from([0.0, 1.0]),
)
def test_samples_do_not_depend_on_how_they_are_spread(world, batch_size, count, seed, eta):
    """Each process draws a share, batch by batch; the last may draw more than are wanted."""
    model, sampler = module(), DDIMConfig(steps=4, eta=eta)
    share = -(-count // world)
    parts = [
        model.sample(sampler, range(start, min(start + batch_size, (rank + 1) * share)), seed)
        for rank in range(world)
        for start in range(rank * share, (rank + 1) * share, batch_size)
    ]
    torch.testing.assert_close(torch.cat(parts)[:count], model.sample(sampler, range(count), seed))


def test_steps_and_seeds_draw_anew():
    draws = [drawn(module(seed=seed), 8, global_step=step)[1] for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert all((a - b).abs().min() > 0 for a, b in ((draws[0], draws[1]), (draws[0], draws[2])))


def test_t_is_uniform():
    model = module()
    t = torch.cat([drawn(model, 500, global_step=step)[0] for step in range(100)])
    counts = torch.bincount(t, minlength=100).double()
    assert counts.sum() == 50_000
    chi_squared = ((counts - 500) ** 2 / 500).sum().item()
    assert chi_squared < 99 + 4 * math.sqrt(2 * 99)


@pytest.mark.parametrize(
    "sampler", [DDPMConfig(), DDIMConfig(steps=10, eta=0.5), DDIMConfig(steps=10, clip_sample=False)]
)
def test_image_i_does_not_depend_on_the_batch(sampler):
    torch.manual_seed(0)  # of the weights
    model = build_model(experiment("model.network.dropout=0.5"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    whole = model.sample(sampler, range(10), seed=3)
    for start, stop in ((0, 1), (4, 10)):
        # kernels round otherwise in another batch, and x̂_0 without bounds lets that grow
        close = {"rtol": 1e-5 if sampler.clip_sample else 1e-4, "atol": 1e-5 if sampler.clip_sample else 1e-3}
        torch.testing.assert_close(model.sample(sampler, range(start, stop), seed=3), whole[start:stop], **close)
    assert (model.sample(sampler, range(10), seed=4) - whole).abs().max() > 0.01
    assert model.network.training  # as it was


def test_sampling_calls_the_network_once_a_step():
    model, calls = module(), []
    model.sample(DDIMConfig(steps=7), [0], 0, on_call=lambda: calls.append(1))
    assert len(calls) == model.network_calls(DDIMConfig(steps=7)) == 7
    assert model.network_calls(DDPMConfig()) == 100


class Copy(torch.nn.Module):
    def forward(self, x, t):
        return x


@pytest.mark.parametrize("sampler", [DDPMConfig(clip_sample=False), DDIMConfig(steps=5, clip_sample=False)])
def test_all_samplers_start_from_the_same_noise(sampler):
    """The first x̂_0 of a network that takes x_t for x_0 is x_T."""
    model = DiffusionModule((1, 4, 4), Copy(), module().schedule, "x0")

    def noise():
        return PerSampleNoise(9, range(3), (1, 4, 4), torch.device("cpu"))

    assert torch.equal(next(model.trajectory(sampler, noise())).x0, noise().draw())


def test_initial_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    one = build_model(experiment())
    torch.manual_seed(2)
    after = torch.rand(1)
    two = build_model(experiment())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build_model(experiment("seed=1"))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    torch.manual_seed(2)
    assert torch.equal(torch.rand(1), after)


def test_an_invalid_schedule_is_refused_with_its_key():
    """1 - 10⁻¹⁷ is 1: a β that adds no noise."""
    with pytest.raises(UserError, match=r"linear at model\.timesteps = 20: betas: expected β in \(0, 1\)"):
        build_model(experiment("model.schedule.beta_start=1e-17"))


@pytest.mark.parametrize("betas", [[0.1, 0.2], torch.full((21,), 0.1), None])
def test_a_schedule_of_the_wrong_form_is_refused(betas, monkeypatch):
    monkeypatch.setitem(SCHEDULES._builders, "linear", lambda timesteps, **_: betas)
    with pytest.raises(UserError, match=r"expected a tensor of shape \(20,\)"):
        build_model(experiment())


def test_much_signal_left_is_warned_of(caplog):
    build_model(
        experiment("model.timesteps=100", "model.schedule={'name': 'linear', 'beta_start': 1e-4, 'beta_end': 0.02}")
    )
    assert "with √ᾱ_T = 0.603" in caplog.text
    assert "rescale: 1000/T" in caplog.text
    caplog.clear()
    build_model(experiment("model.timesteps=1000", "model.schedule={'beta_start': 1e-4, 'beta_end': 0.02}"))
    assert caplog.text == ""


def test_a_path_that_starts_where_images_are_visible_is_warned_of_once(caplog):
    model = build_model(experiment("model.timesteps=1000", "model.schedule={'beta_start': 1e-4, 'beta_end': 0.02}"))
    with caplog.at_level(logging.WARNING):
        for seed in (0, 1):
            model.sample(DDIMConfig(steps=5, spacing="leading"), [0], seed)
            model.sample(DDIMConfig(steps=5), [0], seed)
    assert caplog.text.count("expected √ᾱ") == 1
    signal = math.sqrt(math.prod(1 - 1e-4 - t / 999 * (0.02 - 1e-4) for t in range(801)))
    assert "sampler ddim-5-eta0-leading: expected √ᾱ ≤ 0.02" in caplog.text
    assert f"got √ᾱ = {signal:.3g} at t = 800. Use spacing: arctan or trailing" in caplog.text


class Erring(nn.Module):
    """The exact ε̂ = √(1-ᾱ_t) x_t or v̂ = 0 of data with mean 0 and variance 1, and an error of .01 in it."""

    def __init__(self, prediction, schedule):
        super().__init__()
        self.gain = (1 - schedule.alphas_cumprod).sqrt() * (prediction == "epsilon")

    def forward(self, x, t):
        return self.gain[t].view(-1, 1, 1, 1).to(x) * x + 0.01


def erring(prediction="epsilon", betas=schedules.cosine):
    schedule = Schedule(betas(1000))
    return DiffusionModule((1, 4, 4), Erring(prediction, schedule), schedule, prediction=prediction)


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_the_default_path_keeps_an_unclipped_error_of_the_network_small(steps, caplog):
    def error(model, spacing):
        return (
            model.sample(DDIMConfig(steps=steps, spacing=spacing, clip_sample=False), range(16), 0).mean().abs().item()
        )

    for betas in (schedules.cosine, schedules.linear):
        assert error(erring(betas=betas), "arctan") < 0.3
        assert error(erring("v", betas), "arctan") < 0.3
        heun = erring(betas=betas).sample(HeunConfig(steps=steps), range(16), 0)
        assert heun.mean().abs().item() < 0.3
    assert error(erring(), "leading") < 0.3
    assert "expected √ᾱ ≥" not in caplog.text
    for spacing in ("trailing", "logsnr"):
        assert error(erring("v"), spacing) < 0.3
        assert "expected √ᾱ ≥" not in caplog.text
    if steps < 50:
        assert error(erring(), "trailing") > 10
        assert f"sampler ddim-{steps}-eta0-trailing-unclipped: expected √ᾱ ≥ 0.005 where the path starts" in caplog.text
        assert "got √ᾱ = 4.93e-05 at t = 999" in caplog.text
    erring().sample(HeunConfig(steps=steps, spacing="trailing"), range(2), 0)
    assert f"sampler heun-{steps}-trailing: expected √ᾱ ≥ 0.005 where the path starts" in caplog.text


@pytest.mark.parametrize(
    ("prediction", "clip", "steps"), [("epsilon", True, 5), ("v", False, 5), ("epsilon", False, None)]
)
def test_other_paths_start_at_the_end(prediction, clip, steps):
    model = erring(prediction)
    assert model._path(DDIMConfig(steps=steps, clip_sample=clip))[0][0] == 999
    for sampler in (
        HeunConfig(steps=5),
        HeunConfig(steps=50, clip_sample=False),
        DDIMConfig(steps=5, clip_sample=prediction == "v"),
    ):
        start = model._path(sampler)[0][0]
        if prediction == "epsilon" or sampler.name == "heun":
            below, above = (model.schedule.alpha_bar(t) ** 0.5 for t in (start, start - 1))
            assert below <= 0.02 < above


def test_with_a_zero_terminal_snr_heun_starts_at_the_end():
    schedule = Schedule(schedules.with_zero_terminal_snr(schedules.cosine(1000)), zero_terminal_snr=True)
    model = DiffusionModule((1, 4, 4), Erring("v", schedule), schedule, prediction="v")
    assert model._path(HeunConfig(steps=5))[0][0] == 999
    assert model.sample(HeunConfig(steps=5), range(16), 0).mean().abs().item() < 0.3


def test_with_a_zero_terminal_snr_configs_start_their_paths_at_the_end():
    zero = ["model.prediction=v", "model.schedule.zero_terminal_snr=true"]
    late = "sample_grid.samplers.ddim-5.spacing=leading"
    with pytest.raises(UserError, match=r"ddim-5\.spacing: expected a path that starts at T-1, .* got leading"):
        experiment(*zero, late)
    experiment(late)
    trained = experiment(*zero)
    with pytest.raises(UserError, match=r"spacings: expected a path that starts at T-1"):
        load_evaluate_request("evaluate/ddim_table", ["extractor.name=digits_v1", "steps=[5]"], trained)
    load_evaluate_request("evaluate/eta", ["extractor.name=digits_v1", "steps=[5]"], trained)


@pytest.mark.parametrize(
    ("optim", "factors"),
    [
        (OptimConfig(lr=2.0, warmup_steps=4), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]),
        (OptimConfig(lr=2.0), [2.0] * 6),
        (OptimConfig(lr=2.0, decay="cosine"), [1 + math.cos(math.pi * step / 6) for step in range(6)]),
    ],
)
def test_learning_rate(optim, factors):
    model = module(optim=optim)
    model._trainer = trainer(max_steps=6, precision="32-true")
    settings = model.configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(factors)


def test_the_first_step_after_an_extension_has_the_rate_of_the_new_config(tmp_path):
    """Under a cosine a finished run's checkpoint holds the rate 0; AdamW's first step moves a weight by that rate."""
    rates = [
        "optim={'lr': 1e-3, 'decay': 'cosine', 'warmup_steps': 1}",
        "training.log_every_n_steps=1",
        "sample_grid=null",
    ]
    rates.append("checkpoint={'every': 1, 'keep': null}")
    fit(tmp_path / "run", *rates, "training.max_steps=3")
    longer_run = experiment(*rates, f"run_dir={tmp_path / 'run'}", "training.max_steps=5")
    train_run(longer_run, resume_run(tmp_path / "run" / "config.yaml", longer_run), [])
    logged = [row["train/lr"] for row in metrics(tmp_path / "run")][3:]
    cosine = [5e-4 * (1 + math.cos(math.pi * (step - 1) / 4)) for step in (3, 4)]
    assert logged == pytest.approx(cosine)
    saved = [read_checkpoint(file)["state_dict"] for file in list_checkpoints(tmp_path / "run" / "checkpoints")]
    before, after = (next(iter(each.values())) for each in saved[2:4])
    assert 0.1 * cosine[0] < (after - before).abs().max().item() < 10 * cosine[0]


def test_each_parameter_group_resumes_with_its_own_rate(monkeypatch):
    """A GAN's discriminator has one; the checkpoint of the last of 6 steps is loaded for 12."""
    two = [
        {"params": [torch.nn.Parameter(torch.zeros(1))]},
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 6.0},
    ]
    model = module(optim=OptimConfig(lr=2.0, decay="cosine"))
    monkeypatch.setattr(model, "learned", lambda: two)
    model._trainer = trainer(max_steps=12, precision="32-true")
    settings = model.configure_optimizers()
    schedule = settings["lr_scheduler"]["scheduler"]
    schedule.last_epoch = 6
    for group in settings["optimizer"].param_groups:
        group["lr"] = 0.0
    monkeypatch.setattr(model, "lr_schedulers", lambda: schedule)
    model.on_train_start()
    assert [group["lr"] for group in settings["optimizer"].param_groups] == pytest.approx([1.0, 3.0])
    assert schedule.get_last_lr() == pytest.approx([1.0, 3.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        ["model.loss=hybrid", "sample_grid.samplers.ddpm.variance=learned"],
        ["model.loss=vlb", "model.timestep_sampling=stratified"],
        ["model.timestep_sampling=importance", "training.accumulate_grad_batches=2", "model.timesteps=5"],
        ["model.prediction=v", "model.weighting.name=min_snr", "model.schedule.zero_terminal_snr=true"],
        ["model.prediction=step_epsilon", "model.weighting={name: p2, k: 2}"],
    ],
    ids=lambda keys: keys[0],
)
def test_every_objective_trains_and_resumes_bit_for_bit(tmp_path, keys):
    keys = [*keys, "optim.decay=none"]
    fit(tmp_path / "whole", *keys)
    fit(tmp_path / "parts", *keys, "training.max_steps=4")
    again = experiment(f"run_dir={tmp_path / 'parts'}", *keys)
    train_run(again, resume_run(tmp_path / "parts" / "config.yaml", again), [])
    whole, parts = (
        read_checkpoint(tmp_path / name / "checkpoints" / "step-00000008.ckpt") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole["state_dict"][name], parts["state_dict"][name]) for name in whole["state_dict"])
    plain = build_model(experiment(*keys)).state_dict()
    assert not torch.equal(plain["network.conv_out.weight"], whole["state_dict"]["network.conv_out.weight"])
    losses = [row["train/loss"] for row in metrics(tmp_path / "whole") if "train/loss" in row]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.schedule.zero_terminal_snr=true"], "model.prediction: expected v or x0"),
        (["model.loss=vlb", "model.weighting.name=p2"], "model.weighting: expected uniform with loss: vlb"),
        (["sample_grid.samplers.ddpm.variance=learned"], "variance: expected a fixed variance, got learned"),
        (["model.weighting.name=minsnr"], "min_snr"),
    ],
)
def test_objectives_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        experiment(*overrides)
