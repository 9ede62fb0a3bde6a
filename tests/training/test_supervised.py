"""Supervised training: the loss of labels, soft labels and mixup by hand, and labels found by the image's index."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ferry.common.errors import UserError
from ferry.training import Batch, LoopConfig, make_batch, train
from ferry.training.batches import Pixels
from ferry.training.supervised import Supervised, _beta, checked_labels, train_on_labels
from ferry.training.views import apply_views, evaluation, finetune, sample_views
from torch import nn
from torch.nn import functional

CLASSES, COUNT = 4, 24


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.encoder(x))


def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 8), dtype=np.uint8)


def labels():
    return torch.arange(COUNT) % CLASSES


def supervised(given=None, views=None, **changes):
    chosen = labels() if given is None else given
    return Supervised(Net(), chosen, (0.5,), (0.25,), views or evaluation(8), **changes)


def images(indices):
    return (torch.from_numpy(pixels()[np.asarray(indices)]).float() / 255 - 0.5) / 0.25


def test_labels_are_found_by_the_images_index_under_any_order():
    indices = torch.tensor([17, 2, 9, 0, 23])
    method = supervised()
    found = method.step(make_batch(pixels(), indices))
    expected = functional.cross_entropy(method.network(images(indices)), labels()[indices])
    torch.testing.assert_close(found["loss"], expected)
    by_place = functional.cross_entropy(method.network(images(indices)), labels()[:5])
    assert not torch.allclose(found["loss"], by_place)
    assert found["accuracy"].item() == pytest.approx(
        (method.network(images(indices)).argmax(1) == labels()[indices]).float().mean().item()
    )


def test_a_shuffled_training_learns_each_images_own_label():
    """Labels that say nothing about the place in the batch are learnt by heart only when they are found by index."""
    given = torch.from_numpy(np.random.default_rng(1).permutation(COUNT) % CLASSES)
    method = supervised(given)
    train(method, pixels(), LoopConfig(epochs=40, batch_size=8, learning_rate=0.02, precision="fp32"))
    right = method.network(images(range(COUNT))).argmax(1) == given
    assert right.float().mean() == 1.0


def test_mixup_is_the_weighted_sum_of_two_cross_entropies():
    method = supervised(mixup=0.7)
    batch, again = make_batch(pixels(), step=3), make_batch(pixels(), step=3)
    loss = method.step(batch)["loss"]
    sample_views(method.views, COUNT, (8, 8), again.generator)
    lam = _beta(0.7, again.generator)
    partners = torch.randperm(COUNT, generator=again.generator)
    mixed = lam * images(range(COUNT)) + (1 - lam) * images(partners)
    logits = method.network(mixed)
    expected = lam * functional.cross_entropy(logits, labels())
    expected = expected + (1 - lam) * functional.cross_entropy(logits, labels()[partners])
    torch.testing.assert_close(loss, expected)
    assert 0.0 < lam < 1.0
    assert not torch.equal(partners, torch.arange(COUNT))


def test_no_mixup_a_weight_of_one_and_evaluation_mode_are_plain_cross_entropy(monkeypatch):
    plain = supervised().step(make_batch(pixels()))["loss"]
    torch.testing.assert_close(functional.cross_entropy(Net()(images(range(COUNT))), labels()), plain)
    monkeypatch.setattr("ferry.training.supervised._beta", lambda alpha, generator: 1.0)
    torch.testing.assert_close(supervised(mixup=0.2).step(make_batch(pixels()))["loss"], plain)
    monkeypatch.setattr("ferry.training.supervised._beta", lambda alpha, generator: 0.3)
    torch.testing.assert_close(supervised(mixup=0.2).eval().step(make_batch(pixels()))["loss"], plain)


def test_a_small_alpha_gives_weights_near_the_ends_and_a_large_one_near_the_middle():
    draws = lambda alpha: np.array([_beta(alpha, make_batch(pixels(), step=s).generator) for s in range(200)])  # noqa: E731
    ends = draws(1e-3)
    assert np.minimum(ends, 1 - ends).max() < 0.05
    assert 0.3 < ends.mean() < 0.7
    assert np.abs(draws(1e4) - 0.5).max() < 0.05
    assert draws(0.2).std() == pytest.approx(np.sqrt(0.25 / 1.4), abs=0.05)  # variance of Beta(a, a): 1 / (4 (2a + 1))


@pytest.mark.parametrize("soft", [False, True])
def test_parts_of_a_batch_have_the_partners_of_the_whole_batch(soft):
    given = torch.softmax(torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(2)), 1) if soft else None
    method = supervised(given, views=finetune(8), mixup=0.7)
    rows = torch.randperm(COUNT)
    fetch = Pixels(pixels(), torch.device("cpu"))
    whole = method.step(Batch(rows, fetch, step=5))["loss"]
    parts = [slice(0, 7), slice(7, 8), slice(8, COUNT)]
    found = [method.step(Batch(rows, fetch, rows=part, step=5))["loss"] * (part.stop - part.start) for part in parts]
    torch.testing.assert_close(sum(found) / COUNT, whole)


def test_a_process_without_rows_takes_part_and_gives_no_gradient():
    method = supervised(mixup=0.7)
    rows = torch.arange(2)
    loss = method.step(Batch(rows, Pixels(pixels(), torch.device("cpu")), rows=slice(2, 2)))["loss"]
    (loss * 0.0).backward()
    assert all(bool((parameter.grad == 0).all()) for parameter in method.parameters())


def test_soft_labels_equal_hard_ones_where_they_are_sure_and_the_formula_elsewhere():
    hard = supervised(label_smoothing=0.1).step(make_batch(pixels()))["loss"]
    one_hot = functional.one_hot(labels(), CLASSES).float()
    torch.testing.assert_close(supervised(one_hot, label_smoothing=0.1).step(make_batch(pixels()))["loss"], hard)
    shares = torch.softmax(torch.randn(COUNT, CLASSES), dim=1)
    method = supervised(shares)
    expected = -(shares * torch.log_softmax(method.network(images(range(COUNT))), 1)).sum(1).mean()
    torch.testing.assert_close(method.step(make_batch(pixels()))["loss"], expected)


def test_label_smoothing_equals_torchs():
    method = supervised(label_smoothing=0.2)
    expected = nn.CrossEntropyLoss(label_smoothing=0.2)(method.network(images(range(COUNT))), labels())
    torch.testing.assert_close(method.step(make_batch(pixels()))["loss"], expected)
    smooth = 0.8 * functional.one_hot(labels(), CLASSES) + 0.2 / CLASSES
    torch.testing.assert_close(supervised(smooth).step(make_batch(pixels()))["loss"], expected)


def test_half_precision_gives_a_finite_float32_loss():
    method = supervised(mixup=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.step(make_batch(pixels()))["loss"]
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())


def test_views_are_drawn_for_the_whole_batch():
    spec = finetune(8)
    batch = make_batch(pixels())
    found, _, _ = supervised(views=spec)._images(make_batch(pixels()))
    expected = apply_views(batch.pixels, sample_views(spec, COUNT, (8, 8), batch.generator), spec)
    assert torch.equal(found, expected)
    assert not torch.equal(found, batch.pixels.float() / 255)


@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_the_backbone_has_its_own_learning_rate(scale):
    method = supervised(backbone="encoder", backbone_scale=scale)
    config = LoopConfig(epochs=1, batch_size=8, learning_rate=0.5, weight_decay=0.01, momentum=0.0, precision="fp32")
    groups = method.parameter_groups(config)
    scale_of = {id(one): group["lr_scale"] for group in groups for one in group["params"]}
    assert {scale_of[id(one)] for one in method.network.encoder.parameters()} == {scale}
    assert {scale_of[id(one)] for one in method.network.head.parameters()} == {1.0}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}
    if scale == 0.0:
        before = method.network.encoder[1].weight.detach().clone()
        train(method, pixels(), config)
        assert torch.equal(method.network.encoder[1].weight, before)


def test_without_a_scale_all_learn_at_one_rate():
    groups = supervised().parameter_groups(LoopConfig())
    assert {group["lr_scale"] for group in groups} == {1.0}
    assert sum(len(group["params"]) for group in groups) == 4


def test_the_description_names_labels_and_settings_and_the_state_does_not_hold_them():
    method = supervised(mixup=0.2)
    assert json.dumps(method.describe()) == json.dumps(supervised(mixup=0.2).describe())
    others = [supervised(), supervised(labels().flip(0), mixup=0.2), supervised(views=finetune(8), mixup=0.2)]
    for one, other in itertools.combinations([method, *others], 2):
        assert one.describe() != other.describe()
    assert "labels" not in method.state_dict()


def test_other_labels_do_not_go_on_from_a_checkpoint(tmp_path):
    config = LoopConfig(epochs=1, batch_size=8, precision="fp32")
    train(supervised(), pixels(), config, checkpoint=tmp_path / "c.pt")
    with pytest.raises(UserError, match="labels"):
        train(supervised(labels().flip(0)), pixels(), config, checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": torch.ones(COUNT)}, r"`labels` to be whole numbers"),
        ({"given": torch.ones(COUNT, CLASSES, dtype=torch.long)}, r"`labels` to be whole numbers"),
        ({"mixup": -1.0}, r"`mixup` to be zero or positive, but got -1\.0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` to be at least 0 and below 1, but got 1\.0"),
        ({"backbone": "body"}, r"`backbone` to be one of encoder, head, but got 'body'"),
        ({"backbone_scale": -0.1}, r"`backbone_scale` to be zero or positive"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        supervised(**changes)


@dataclass(frozen=True)
class Settings:
    momentum: float = 0.8
    weight_decay: float = 1e-3
    mixup: float = 0.2
    label_smoothing: float = 0.1
    precision: str = "fp32"
    seed: int = 3


@dataclass(frozen=True)
class Scale:
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.8, True), (0.0, False)])
def test_training_on_labels_is_the_method_in_the_loop_with_all_settings(momentum, nesterov):
    by_hand = supervised(views=finetune(8), mixup=0.2, label_smoothing=0.1)
    course = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "schedule": "one_cycle", "warmup_epochs": 0.5}
    loop = LoopConfig(momentum=momentum, nesterov=nesterov, weight_decay=1e-3, precision="fp32", seed=3, **course)
    train(by_hand, pixels(), loop)
    network, settings = Net(), Settings(momentum=momentum)
    done = train_on_labels(
        network, pixels(), labels(), settings, normalisation=Scale(), flops_per_image=10.0, name="x", **course
    )
    assert done.steps == 6
    for name, value in by_hand.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_checked_labels_come_out_in_one_of_two_forms():
    assert checked_labels(np.array([0, 2], np.int32), 2, 3).dtype == torch.int64
    assert checked_labels(np.full((2, 4), 0.25), 2, 4).dtype == torch.float32
    frozen = np.array([0, 1])
    frozen.flags.writeable = False
    checked_labels(frozen, 2, 2)[0] = 1
    assert frozen[0] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([0, 3]), r"`labels` to be in the range 0 to 2, but got 'values from 0 to 3'"),
        (np.array([-1, 0]), r"`labels` to be in the range 0 to 2"),
        (np.array([0, 1, 2]), r"`labels` to be whole numbers of shape \[2\]"),
        (np.array([0.0, 1.0]), r"`labels` to be .* shares of shape \[2, 3\]"),
        (np.array([True, False]), r"`labels`"),
        (np.array([[0.5, 0.5, 0.5], [1, 0, 0]]), r"shares that sum to 1 in every row, but got '1 rows.*first row 0"),
        (np.array([[1.5, -0.5, 0.0], [1, 0, 0]]), r"shares that sum to 1"),
        (np.array([[np.nan, 0.5, 0.5], [1, 0, 0]]), r"shares that sum to 1"),
    ],
)
def test_labels_that_break_a_rule_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        checked_labels(given, 2, 3)
