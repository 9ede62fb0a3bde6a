"""LARS against hand arithmetic and lightly; groups and factors."""

import copy

import pytest
import torch
from ferry.training import LARS, LoopConfig, Method
from ferry.training.method import split_by_dimension
from ferry.training.optimisers import make_optimiser, set_learning_rate
from torch import nn


def stepped(optimiser_of, steps=4, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    optimiser = optimiser_of(net)
    for _ in range(steps):
        optimiser.zero_grad()
        net(torch.randn(8, 5)).square().mean().backward()
        optimiser.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def test_lars_step_equals_hand_arithmetic():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))  # norm 5
    weight.grad = torch.tensor([[0.0, 2.0]])  # norm 2
    LARS([weight], lr=0.5, momentum=0.0, weight_decay=0.1, coefficient=0.2).step()
    ratio = 0.2 * 5 / (2 + 0.1 * 5)  # 0.4; gradient with decay (0.3, 2.4)
    assert weight.detach().tolist()[0] == pytest.approx([3 - 0.5 * ratio * 0.3, 4 - 0.5 * ratio * 2.4], rel=1e-6)


def test_lars_equals_lightly_on_decayed_weights():
    lightly = pytest.importorskip("lightly.utils.lars")
    settings = {"lr": 0.7, "momentum": 0.9, "weight_decay": 1e-2}
    ours = stepped(lambda net: LARS(net.parameters(), coefficient=0.02, exclude_one_dimensional=False, **settings))
    theirs = stepped(lambda net: lightly.LARS(net.parameters(), trust_coefficient=0.02, **settings))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def test_lars_leaves_one_dimensional_parameters_to_sgd():
    ours = stepped(lambda net: LARS(net.parameters(), lr=0.1, momentum=0.9, coefficient=1e-9))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    biases = [net[0].bias]
    optimiser = torch.optim.SGD(biases, lr=0.1, momentum=0.9)
    for _ in range(4):
        net.zero_grad()
        net(torch.randn(8, 5)).square().mean().backward()
        optimiser.step()
    torch.testing.assert_close(ours[1], net[0].bias.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("coefficient", "expected"), [(0.2, 0.2 * 5 / 2 / 0.5), (100.0, 1.0)])
def test_clip_limits_the_ratio_to_one(coefficient, expected):
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    weight.grad = torch.tensor([[0.0, 2.0]])
    before = weight.detach().clone()
    LARS([weight], lr=0.5, momentum=0.0, coefficient=coefficient, clip=True).step()
    assert (before - weight.detach()).norm().item() == pytest.approx(0.5 * min(expected, 1.0) * 2, rel=1e-5)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_zero_norms_do_not_break_lars(zero):
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2) if zero == "gradient" else torch.ones(2, 2)
    before = weight.detach().clone()
    LARS([weight], lr=0.1, momentum=0.0).step()
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)


def test_lars_state_can_be_saved_and_loaded():
    def resumed(net):
        optimiser = LARS(net.parameters(), lr=0.1)
        real = optimiser.step

        def step():
            optimiser.load_state_dict(copy.deepcopy(optimiser.state_dict()))
            real()

        optimiser.step = step
        return optimiser

    for one, other in zip(stepped(lambda net: LARS(net.parameters(), lr=0.1)), stepped(resumed), strict=True):
        assert torch.equal(one, other)


def test_parameters_without_gradient_are_left_alone():
    weight = nn.Parameter(torch.ones(2, 2))
    LARS([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))


class Small(Method):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_weights_are_decayed_by_default():
    groups = Small().parameter_groups(LoopConfig(weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert [sorted({one.ndim for one in group["params"]}) for group in groups] == [[2, 4], [1]]


def test_decay_all_takes_one_group_without_frozen_parameters():
    (group,) = Small().parameter_groups(LoopConfig(weight_decay=0.1, decay="all"))
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == 6


def test_learning_rate_scales_are_kept_at_every_step():
    method, config = Small(), LoopConfig(optimiser="sgd")
    groups = [
        *split_by_dimension(method.net[0].parameters(), config, lr_scale=0.1),
        *split_by_dimension(method.net[2].parameters(), config),
    ]
    optimiser = make_optimiser(groups, config)
    for rate in (1.0, 0.5):
        set_learning_rate(optimiser, rate)
        assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([0.1 * rate] * 2 + [rate] * 2)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("lars", LARS)])
def test_optimisers_are_made_by_name(name, kind):
    config = LoopConfig(optimiser=name, learning_rate=0.3, momentum=0.8, weight_decay=0.01, lars_coefficient=0.5)
    optimiser = make_optimiser(Small().parameter_groups(config), config)
    assert isinstance(optimiser, kind)
    assert optimiser.defaults["lr"] == 0.3
    if name != "adamw":
        assert optimiser.defaults["momentum"] == 0.8
    if name == "lars":
        assert optimiser.defaults["coefficient"] == 0.5
