"""The learning rate of each step against closed forms and torch's schedulers."""

import math
from itertools import pairwise

import pytest
import torch
from ferry.common.errors import UserError
from ferry.training import LoopConfig, learning_rate_at


def rates(total=20, steps_per_epoch=10, **settings):
    config = LoopConfig(epochs=max(1, total // steps_per_epoch), learning_rate=0.4, **settings)
    return [learning_rate_at(step, total, steps_per_epoch, config) for step in range(total)]


def test_constant_stays():
    assert rates(schedule="constant") == [0.4] * 20


def test_cosine_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20, eta_min=0.01)
    expected = []
    for _ in range(20):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates(schedule="cosine", final_learning_rate=0.01) == pytest.approx(expected, rel=1e-9)


def test_exponential_falls_by_the_same_factor_to_the_final_rate():
    values = rates(schedule="exponential", final_learning_rate=0.004)
    factors = [after / before for before, after in pairwise(values)]
    assert factors == pytest.approx([0.01 ** (1 / 20)] * 19)
    assert values[0] == 0.4


def test_inverse_is_shots_formula():
    assert rates(schedule="inverse") == pytest.approx([0.4 * (1 + 10 * t / 20) ** -0.75 for t in range(20)])


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.8])
def test_one_cycle_equals_torch(warmup_epochs):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    share = 0.3 if warmup_epochs == 0 else warmup_epochs * 10 / 20
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=0.4, total_steps=20, pct_start=share, cycle_momentum=False, final_div_factor=1e12
    )
    expected = []
    for _ in range(20):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates(schedule="one_cycle", warmup_epochs=warmup_epochs) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "inverse"])
def test_warm_up_is_a_line_and_the_schedule_begins_after_it(schedule):
    values = rates(schedule=schedule, warmup_epochs=0.5, warmup_learning_rate=0.1, final_learning_rate=0.01)
    assert values[:5] == pytest.approx([0.1 + 0.3 * (step + 1) / 5 for step in range(5)])
    assert values[5] == pytest.approx(0.4)
    if schedule == "cosine":
        assert values[6] == pytest.approx(0.01 + 0.39 * (1 + math.cos(math.pi / 15)) / 2)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "inverse", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_very_short_trainings_have_finite_positive_rates(schedule, total):
    config = LoopConfig(epochs=1, schedule=schedule, warmup_epochs=0.5, final_learning_rate=0.001)
    for step in range(total):
        assert 0 < learning_rate_at(step, total, total, config) <= config.learning_rate


def test_exponential_needs_a_final_rate():
    with pytest.raises(UserError, match=r"`final_learning_rate`.*positive.*got 0.0.*hundredth"):
        LoopConfig(schedule="exponential")
