"""Balanced assignment of samples to prototypes by optimal transport (SwAV, section 3.1 and equation 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..common.errors import expected

AllReduce = Callable[[Tensor], Tensor]

# Logarithm of float32's range to either side of 1. The matrix uses scores / epsilon of it; the two vectors differ from
# the matrix by factors of up to the number of samples times the number of prototypes.
_FLOAT32_RANGE = 87.0
_CPU_BLOCK = 200_000  # values per block of rows, so that a block stays in the second-level cache between its two uses


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3, all_reduce: AllReduce | None = None) -> Tensor:
    """Codes of samples: soft assignments that use all prototypes about equally.

    Sinkhorn-Knopp on ``exp(scores / epsilon)``: each iteration scales the prototypes to equal sums and then the samples
    to equal sums. Instead of scaling the matrix, two vectors u (prototypes) and v (samples) are updated, so that an
    iteration reads the matrix once. One number, the same for all entries, is subtracted before the exponential; this
    cancels exactly, while a shift per sample would change the result of a finite number of iterations.

    All arithmetic is float32. Where ``scores / epsilon`` spans more than float32's exponential can (scores that are
    not cosines), the same iterations run on logarithms in float64, slower but exact.

    Args:
        scores: [B, K] of any floating dtype: similarity of each sample to each prototype; under data-parallel
            training, this process's samples.
        epsilon: Entropy of the assignment; smaller is harder. The paper uses 0.05.
        iterations: Number of iterations, at least 1. The paper uses 3.
        all_reduce: Under data-parallel training, the sum of a tensor over all processes; it may work in place. It is
            called in the same order in all processes: once and then once per iteration, or five times per iteration
            where the iterations run on logarithms.

    Returns:
        float32 [B, K] without gradient; each row sums to 1 and, the more iterations, the nearer each column's sum is
        to (samples of all processes) / K.

    Raises:
        UserError: An argument is out of range, or scores are not finite; with `all_reduce`, in all processes.
    """
    _check(scores, epsilon, iterations)
    low, high, samples = _bounds(scores, all_reduce)
    if not (math.isfinite(low) and math.isfinite(high)):
        fix = "Check the loss of the steps before; lower the learning rate, or normalise embeddings and prototypes."
        raise expected("scores", "finite", "NaN or infinity", fix)
    if (high - low) / epsilon + math.log(samples * scores.shape[1]) > _FLOAT32_RANGE:
        return _log_sinkhorn(scores, epsilon, iterations, all_reduce)
    with torch.autocast(scores.device.type, enabled=False):
        return _scaling_sinkhorn(scores, high, epsilon, iterations, all_reduce)


def _scaling_sinkhorn(
    scores: Tensor, shift: float, epsilon: float, iterations: int, all_reduce: AllReduce | None
) -> Tensor:
    b, k = scores.shape
    matrix = torch.empty((b, k), dtype=torch.float32, device=scores.device)
    block = max(1, _CPU_BLOCK // k) if scores.device.type == "cpu" else b
    blocks = list(zip(scores.split(block), matrix.split(block), strict=True))
    sums = torch.zeros(k, dtype=torch.float32, device=scores.device)
    for score, part in blocks:
        sums += torch.sub(score.float(), shift, out=part).mul_(1.0 / epsilon).exp_().sum(dim=0)
    for _ in range(iterations - 1):
        prototypes = _inverse(sums, all_reduce)
        sums = torch.zeros_like(sums)
        for _, part in blocks:  # scale the samples of a block and add them to the sums of the next iteration
            sums += torch.mv(part.t(), torch.mv(part, prototypes).reciprocal_())
    prototypes = _inverse(sums, all_reduce)
    for _, part in blocks:
        part.mul_(prototypes)
        part.div_(part.sum(dim=1, keepdim=True))
    return matrix


def _inverse(sums: Tensor, all_reduce: AllReduce | None) -> Tensor:
    """The scaling of the prototypes; its own scale is free and kept near 1, or it would drift with each iteration."""
    total = sums if all_reduce is None else all_reduce(sums)
    return total.mean() / total


def _log_sinkhorn(scores: Tensor, epsilon: float, iterations: int, all_reduce: AllReduce | None) -> Tensor:
    """The same iterations on logarithms, for scores that span more than the exponential can represent."""
    logs = scores.double() / epsilon
    samples = torch.zeros((len(logs), 1), dtype=torch.float64, device=logs.device)
    for _ in range(iterations):
        prototypes = -_log_sum_exp(torch.logsumexp(logs + samples, dim=0), all_reduce)
        samples = -torch.logsumexp(logs + prototypes, dim=1, keepdim=True)
    return (logs + prototypes).softmax(dim=1).float()


def _log_sum_exp(values: Tensor, all_reduce: AllReduce | None) -> Tensor:
    """Logarithm of the sum of ``exp(values)`` over processes, by sums alone, for float64 values of any size."""
    if all_reduce is None:
        return values
    count = all_reduce(torch.ones_like(values))
    centred = values - all_reduce(values.clone()) / count
    deviation = all_reduce(centred.square()).sqrt()  # no value is further than this from the mean
    # A smooth maximum at a temperature at which nothing underflows; it is at most temperature * log(count) too large.
    temperature = (deviation / 300.0).clamp_min(1.0)
    largest = deviation + temperature * all_reduce(((centred - deviation) / temperature).exp()).log()
    return values - centred + largest + all_reduce((centred - largest).exp()).log()


def _bounds(scores: Tensor, all_reduce: AllReduce | None) -> tuple[float, float, float]:
    """Smallest and largest score and number of samples; over several processes, bounds that all compute alike.

    The bounds follow from sums alone: of n numbers none is further from the mean than the root of the summed squared
    deviations. NaN and infinity in any process reach all of them.
    """
    low, high = (float(value) for value in scores.aminmax())
    if all_reduce is None:
        return low, high, len(scores)
    own = [1.0, len(scores), low, high, low * low, high * high]
    sums = all_reduce(torch.tensor(own, dtype=torch.float64, device=scores.device)).tolist()
    count, samples, low, high = sums[0], sums[1], sums[2] / sums[0], sums[3] / sums[0]
    return low - _root(sums[4] - count * low * low), high + _root(sums[5] - count * high * high), samples


def _root(value: float) -> float:
    return value if math.isnan(value) else math.sqrt(max(value, 0.0))


def _check(scores: Tensor, epsilon: float, iterations: int) -> None:
    if scores.ndim != 2 or scores.numel() == 0 or not scores.is_floating_point():
        rule = "floating point of shape [samples, prototypes], neither of them 0"
        raise expected("scores", rule, f"{scores.dtype} {list(scores.shape)}", "Pass embeddings @ prototypes.T.")
    if not (0.0 < epsilon < math.inf):
        raise expected("epsilon", "a positive number", epsilon, "Pass a number such as 0.05.")
    if iterations < 1:
        raise expected("iterations", "at least 1", iterations, "Pass a number such as 3.")
