"""Notices a pretraining that has collapsed, names the cause and says what to change.

The number of used prototypes is no sign: it stays full in collapsed runs. What shows a collapse is the loss at ln K
together with codes that are as flat as 1/K, or embeddings that have lost their dimensions. DeepClusterV2 has no codes,
and its predictions stay flat in healthy runs: there the signs besides the embeddings are the loss at ln K together with
centroids that have merged, and one cluster with almost all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..common.errors import TrainingDiverged
from ..training.distributed import all_gather_rows, all_reduce_sum
from .config import MethodName

_FLAT = 3.0
"""Codes count as flat below this many times 1/K; healthy ones measured 20 to 45 times, collapsed ones 1.5 times."""
_NARROW = 0.5
"""Embeddings with less spread than this have come together; healthy ones measured 0.9 to 1, collapsed ones 0.24."""
_MERGED = 0.1
"""Prototypes with less spread than this have come together; random ones have 1 - 1 / sqrt(K)."""
_ONE_CLUSTER = 2.0
"""Clusters of a lower perplexity have nearly all images in one of them."""

_SPREAD_OUT = "Use the preset small (normalised projector output), softer crops, or a lower learning rate."


@torch.no_grad()
def health(embeddings: Tensor, codes: Tensor, prototypes: Tensor) -> dict[str, Tensor]:
    """Measures the state of a pretraining; under data-parallel training over the rows of all processes.

    Args:
        embeddings: Unit-length embeddings of one view, float [B, D].
        codes: Their codes (of DeepClusterV2 its predictions), rows sum to 1, float [B, K].
        prototypes: Unit-length prototypes, float [K, D].

    Returns:
        Scalars: ``max_code``, the largest entry of a code, mean over images (1/K when codes are flat);
        ``perplexity``, exp of the entropy of the mean code (K when all prototypes are used alike); ``rank``, see
        :func:`effective_rank`; ``spread``, the embeddings' standard deviation times sqrt(D), mean over dimensions
        (1 for a uniform sphere, 0 for one point); ``prototype_spread``, one minus the length of the prototypes' mean.
    """
    everything = _precise(all_gather_rows(embeddings.detach()))
    sums = _precise(all_reduce_sum(codes.detach().sum(0)))
    return {
        "max_code": codes.detach().max(1).values.mean(),
        "perplexity": perplexity(sums / sums.sum()),
        "rank": effective_rank(everything),
        "spread": everything.std(0, unbiased=False).mean() * math.sqrt(everything.shape[1]),
        "prototype_spread": 1.0 - _precise(prototypes).mean(0).norm(),
    }


@torch.no_grad()
def perplexity(shares: Tensor) -> Tensor:
    """Returns exp of the entropy of shares, float [K] with sum 1: the number of prototypes that are used alike."""
    return torch.exp(torch.special.entr(shares).sum())


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Returns the effective number of dimensions of embeddings, a scalar from 1 to D.

    RankMe (Garrido et al. 2023, eq. 1): exp of the entropy of the singular values, here of the centred embeddings,
    taken from the eigenvalues of their covariance.

    Args:
        embeddings: Float [B, D].
    """
    centred = _precise(embeddings) - _precise(embeddings).mean(0)
    wide = centred.shape[0] < centred.shape[1]
    values = torch.linalg.eigvalsh(centred @ centred.T if wide else centred.T @ centred).clamp_min(0).sqrt()
    noise = 1e-6 * float(embeddings.shape[0]) ** 0.5  # equal embeddings of length 1 differ by float32's rounding
    values = torch.where(values > noise, values, 0.0)
    total = values.sum()
    return torch.where(total > 0, torch.exp(torch.special.entr(values / total.clamp_min(1e-300)).sum()), 1.0)


def _precise(tensor: Tensor) -> Tensor:
    """The values in float64, on the CPU where the device has no such type."""
    tensor = tensor.detach()
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


class CollapseWatch:
    """Stops a pretraining that has been collapsed for a while.

    What it remembers follows from the records alone. The loop shows all earlier records again on resume, so a resumed
    training is stopped at the step at which an uninterrupted one is.

    Args:
        prototypes: Number of prototypes K.
        patience_steps: Steps that the signs must last; every network starts near ln K.
        margin: Distance to ln K, in nats, below which the loss counts as stuck.
        method: ``swav`` or ``deepcluster``, which decides what the signs are.
    """

    def __init__(
        self, prototypes: int, patience_steps: int = 150, margin: float = 0.02, method: MethodName = "swav"
    ) -> None:
        self.prototypes, self.patience, self.margin, self.method = prototypes, patience_steps, margin, method
        self._since: dict[str, int] = {}

    def look(self, record: Mapping[str, float]) -> None:
        """Reads one record of the loop.

        Args:
            record: ``step``, ``loss``, and the scalars of :func:`health`, with DeepClusterV2's ``perplexity`` that of
                its clusters; the means over an epoch are passed over, because they reach back to before a collapse.

        Raises:
            TrainingDiverged: A sign of collapse has lasted for the patience.
        """
        if "seconds" in record:
            return
        step, shown = int(record["step"]), self.signs(record)
        for sign in ("embeddings", "codes", "centroids", "clusters"):
            if sign not in shown:
                self._since.pop(sign, None)
            elif step - self._since.setdefault(sign, step) >= self.patience:
                raise TrainingDiverged(f"{shown[sign]} It lasted for {step - self._since[sign]} steps.")

    def signs(self, record: Mapping[str, float]) -> dict[str, str]:
        """Returns the signs of collapse that a record shows, each with its sentence for people.

        Args:
            record: As in :meth:`look`.
        """
        chance = math.log(self.prototypes)
        stuck = record.get("loss", 0.0) > chance - self.margin
        shown = {}
        if record.get("rank", math.inf) < 1.5 or record.get("spread", 1.0) < 0.05:
            shown["embeddings"] = _constant_embeddings(record)
        if self.prototypes <= _FLAT:
            return shown
        if self.method == "deepcluster":
            if stuck and record.get("prototype_spread", 1.0) < _MERGED:
                shown["centroids"] = _merged_centroids(record, chance)
            if record.get("perplexity", math.inf) < _ONE_CLUSTER:
                shown["clusters"] = self._one_cluster(record)
        elif stuck and record.get("max_code", 1.0) < _FLAT / self.prototypes:
            narrow = record.get("spread", 1.0) < _NARROW
            shown["codes"] = _constant_embeddings(record) if narrow else self._flat_codes(record, chance)
        return shown

    def _one_cluster(self, record: Mapping[str, float]) -> str:
        return (
            f"Expected `clusters` to share the images, but got {record['perplexity']:.1f} of {self.prototypes} in use "
            f"at step {int(record['step'])}: one has taken almost all of them. {_SPREAD_OUT}"
        )

    def _flat_codes(self, record: Mapping[str, float], chance: float) -> str:
        merged = record.get("prototype_spread", 1.0) < _MERGED
        cause = (
            "the prototypes have merged. Freeze the prototypes for good (freeze_prototypes_steps -1), lower epsilon to "
            "0.03, use fewer prototypes, or softer crops."
            if merged
            else "the codes tell no image from another. Lower epsilon to 0.03, freeze the prototypes for good "
            "(freeze_prototypes_steps -1), use fewer prototypes, or softer crops."
        )
        return (
            f"Expected `loss` to fall below ln K = {chance:.3f}, but got {record['loss']:.3f} with codes as flat as "
            f"1/K (largest {record['max_code']:.4f}, 1/K = {1 / self.prototypes:.4f}) at step {int(record['step'])}: "
            f"{cause}"
        )


def _merged_centroids(record: Mapping[str, float], chance: float) -> str:
    return (
        f"Expected `loss` to fall below ln K = {chance:.3f}, but got {record['loss']:.3f} with a spread of the "
        f"centroids of {record['prototype_spread']:.2f} at step {int(record['step'])}: the centroids have merged, "
        f"because the embeddings have come together. {_SPREAD_OUT}"
    )


def _constant_embeddings(record: Mapping[str, float]) -> str:
    got = (
        f"an effective rank of {record.get('rank', math.nan):.1f} and a spread of {record.get('spread', math.nan):.2f}"
    )
    return (
        f"Expected `embeddings` to differ between images, but got {got} (1 is healthy) at step {int(record['step'])}: "
        f"the encoder gives every image almost the same embedding. {_SPREAD_OUT}"
    )
