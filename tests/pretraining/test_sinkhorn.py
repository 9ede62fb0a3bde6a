"""Sinkhorn codes equal the textbook's, stay finite, and do not depend on how samples are divided among processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from ferry.common.errors import UserError
from ferry.pretraining.sinkhorn import sinkhorn


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


def cosines(samples: int, prototypes: int, seed: int = 0, dimensions: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.nn.functional.normalize(torch.randn((samples, dimensions), generator=generator))
    right = torch.nn.functional.normalize(torch.randn((prototypes, dimensions), generator=generator))
    return left @ right.T


def textbook(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """The transport plan scaled row by row and column by column, on logarithms in float64."""
    samples, prototypes = scores.shape
    plan = scores.double().T / epsilon  # prototypes x samples
    plan = plan - plan.logsumexp(dim=(0, 1))
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=1, keepdim=True) - math.log(prototypes)
        plan = plan - plan.logsumexp(dim=0, keepdim=True) - math.log(samples)
    return (plan + math.log(samples)).exp().T


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (64, 10), (33, 150), (200, 1500)])
@pytest.mark.parametrize("epsilon", [0.03, 0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_equal_the_textbook_in_float64(shape, epsilon, iterations):
    scores = cosines(*shape)
    codes = sinkhorn(scores, epsilon, iterations)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), textbook(scores, epsilon, iterations), atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [(64, 10), (128, 300)])
def test_codes_equal_lightlys(shape):
    from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn  # slow to import in the processes below

    scores = cosines(*shape)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), lightly_sinkhorn(scores, 3, 0.05), atol=1e-6, rtol=0)


def test_every_sample_sums_to_one_and_prototypes_become_balanced():
    scores = cosines(240, 12)
    imbalance = []
    for iterations in (1, 3, 10, 100):
        codes = sinkhorn(scores, 0.05, iterations)
        assert float(codes.min()) >= 0.0
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(240), atol=1e-5, rtol=0)
        imbalance.append(float((codes.sum(dim=0) - 240 / 12).abs().max()))
    assert imbalance == sorted(imbalance, reverse=True)
    assert imbalance[-1] < 1e-3


def test_one_shift_for_all_scores_cancels_but_one_per_sample_does_not():
    scores = cosines(40, 9)
    scores = (scores * 1024).round() / 1024  # so that the sums below are exact
    expected = sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(sinkhorn(scores + 1000.0, 0.05, 3), expected, atol=1e-6, rtol=0)
    per_sample = scores - scores.max(dim=1, keepdim=True).values
    assert float((sinkhorn(per_sample, 0.05, 3) - expected).abs().max()) > 1e-3


def test_permuting_samples_or_prototypes_permutes_the_codes():
    scores = cosines(50, 20)
    rows, columns = torch.randperm(50), torch.randperm(20)
    expected = sinkhorn(scores)[rows][:, columns]
    torch.testing.assert_close(sinkhorn(scores[rows][:, columns]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_identical_prototypes_or_samples_give_uniform_codes(factor):
    one_sample = cosines(30, 1).expand(30, 8) * factor  # every prototype looks the same
    torch.testing.assert_close(sinkhorn(one_sample), torch.full((30, 8), 1 / 8), atol=1e-6, rtol=0)
    one_prototype = cosines(1, 8).expand(30, 8) * factor  # every sample looks the same
    torch.testing.assert_close(sinkhorn(one_prototype), torch.full((30, 8), 1 / 8), atol=1e-6, rtol=0)


def test_separable_samples_keep_their_own_prototype():
    codes = sinkhorn(torch.eye(6).repeat(4, 1), 0.05, 3)
    torch.testing.assert_close(codes, torch.eye(6).repeat(4, 1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.0, 1e-3, 1.0, 4.0, 100.0, 600.0])
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_finite_and_right_for_every_dtype_and_scale(dtype, factor, seed):
    scores = (cosines(48, 30, seed, dimensions=4) * factor).to(dtype)
    codes = sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    assert bool(codes.isfinite().all())
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(48), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes.double(), textbook(scores, 0.05, 3), atol=3e-5, rtol=0)


@pytest.mark.parametrize("span", [75.0, 79.6, 79.8, 200.0])
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_the_widest_spans_in_float32_and_beyond_equal_the_textbook(span, iterations):
    scores = torch.rand((60, 25), generator=torch.Generator().manual_seed(1))  # 87 - ln(60 * 25) = 79.7
    scores[:, 3] = 0.0  # a prototype that is far from everything
    scores[7] = 0.0  # a sample that is far from everything
    scores[8], scores[8, 3] = 0.0, 1.0
    scores[:, 4] = 1.0
    epsilon = 1.0 / span
    codes = sinkhorn(scores, epsilon, iterations)
    torch.testing.assert_close(codes.double(), textbook(scores, epsilon, iterations), atol=5e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2000, 3), (3, 2000)])
def test_many_iterations_neither_overflow_nor_vanish(shape):
    codes = sinkhorn(cosines(*shape), 0.05, 200)
    torch.testing.assert_close(codes.double(), textbook(cosines(*shape), 0.05, 200), atol=1e-5, rtol=0)


def test_codes_have_no_gradient_and_scores_stay_unchanged():
    scores = cosines(20, 5).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores).requires_grad
    assert torch.equal(scores.detach(), before)


def test_autocast_and_layout_do_not_change_the_codes():
    scores = cosines(40, 30)
    expected = sinkhorn(scores)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn(scores), expected)
    torch.testing.assert_close(sinkhorn(scores.T.contiguous().T), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    scores = cosines(8, 5)
    scores[3, 2] = bad
    with pytest.raises(UserError, match=r"Expected `scores` to be finite, but got 'NaN or infinity'\. Check the loss"):
        sinkhorn(scores)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((torch.zeros(0, 4),), "scores"),
        ((torch.zeros(4),), "scores"),
        ((torch.zeros(4, 4, dtype=torch.int64),), "scores"),
        ((torch.zeros(4, 4), 0.0), "epsilon"),
        ((torch.zeros(4, 4), math.nan), "epsilon"),
        ((torch.zeros(4, 4), 0.05, 0), "iterations"),
    ],
)
def test_wrong_arguments_are_named(arguments, field):
    with pytest.raises(UserError, match=f"Expected `{field}`"):
        sinkhorn(*arguments)


def test_the_hook_sees_the_bounds_and_then_one_sum_per_iteration():
    shapes = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    scores = cosines(10, 4)
    assert torch.equal(sinkhorn(scores, 0.05, 3, record), sinkhorn(scores, 0.05, 3))
    assert shapes == [(6,), (4,), (4,), (4,)]
    shapes.clear()
    sinkhorn(scores * 100, 0.05, 3, record)  # on logarithms
    assert shapes == [(6,)] + [(4,)] * 15


def halves(scores: torch.Tensor) -> list:
    return [scores[:20].tolist(), scores[20:].tolist()]


@pytest.mark.slow
def test_two_processes_give_the_codes_of_one(tmp_path: Path, preloaded):
    problems = {}
    for factor in (1.0, 100.0):
        problems[str(factor)] = cosines(50, 12) * factor
        problems[str(factor)][:20] *= 0.2  # the two processes see different ranges
    bad = cosines(24, 3)
    bad[22, 0] = math.inf
    sums = [[5.0, -4000.0, 0.0, -1.0], [5.0, 3000.0, 900.0, -1.0]]
    scores = {name: halves(scores) for name, scores in {**problems, "bad": bad}.items()}
    (tmp_path / "problems.json").write_text(json.dumps({"scores": scores, "sums": sums}))
    script = Path(__file__).with_name("exactness.py")
    first, second = (one["value"] for one in json.loads(preloaded.run(script, "codes", f"{tmp_path}/problems.json")))
    for name, scores in problems.items():
        codes = torch.tensor(first[name] + second[name])
        torch.testing.assert_close(codes, sinkhorn(scores, 0.05, 3), atol=1e-5, rtol=0)
    expected = [5.0 + math.log(2), 3000.0, 900.0, -1.0 + math.log(2)]
    assert first["sums"] == second["sums"] == pytest.approx(expected)
    # NaN or infinity in one process stops all, so that none waits for ever
    assert first["bad"] == second["bad"] == "refused"
