"""Notices a pretraining that has collapsed, names the cause and says what to change.

The number of used prototypes is no sign: it stays full in collapsed runs. What shows a collapse is the loss at ln K
together with codes that are as flat as 1/K, or embeddings that have lost their dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import TrainingDiverged


@dataclass(frozen=True)
class Health:
    """What one batch says about the state of a pretraining.

    Attributes:
        max_code: Largest entry of a code, mean over images; 1/K when codes are flat.
        perplexity: exp of the entropy of the mean code; K when all prototypes are used alike.
        rank: Effective number of dimensions of the embeddings (RankMe, Garrido et al. 2023, eq. 1).
        spread: Mean over dimensions of the embeddings' standard deviation times sqrt(D); 1 for a uniform sphere.
    """

    max_code: float
    perplexity: float
    rank: float
    spread: float


@torch.no_grad()
def health(embeddings: Tensor, codes: Tensor) -> Health:
    """Measures the state of a pretraining.

    Args:
        embeddings: Unit-length embeddings, float [B, D].
        codes: Codes that sum to 1, float [B, K].
    """
    mean = codes.double().mean(0)
    perplexity = torch.exp(-(mean * torch.log(mean.clamp_min(1e-12))).sum())
    spread = embeddings.double().std(0, unbiased=False).mean() * math.sqrt(embeddings.shape[1])
    return Health(
        max_code=float(codes.max(1).values.mean()),
        perplexity=float(perplexity),
        rank=effective_rank(embeddings),
        spread=float(spread),
    )


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> float:
    """Returns exp of the entropy of the normalised singular values of the centred embeddings, float [B, D]."""
    centred = embeddings.double() - embeddings.double().mean(0)
    values = torch.linalg.svdvals(centred)
    total = values.sum()
    if total <= 1e-12:
        return 1.0
    shares = (values / total).clamp_min(1e-12)
    return float(torch.exp(-(shares * torch.log(shares)).sum()))


class CollapseWatch:
    """Stops a pretraining that has been collapsed for a while.

    Args:
        prototypes: Number of prototypes K.
        patience_steps: Steps that the signs must last; every network starts near ln K.
        margin: Distance to ln K, in nats, below which the loss counts as stuck.
    """

    def __init__(self, prototypes: int, patience_steps: int = 150, margin: float = 0.02) -> None:
        self.prototypes, self.patience, self.margin = prototypes, patience_steps, margin
        self._since: dict[str, int] = {}

    def look(self, record: dict[str, float]) -> None:
        """Reads one record of the loop.

        Args:
            record: ``step``, ``loss``, and the fields of :class:`Health`.

        Raises:
            TrainingDiverged: A sign of collapse has lasted for the patience.
        """
        step = int(record.get("step", 0))
        chance = math.log(self.prototypes)
        flat = record.get("max_code", 1.0) < 3.0 / self.prototypes
        signs = {
            "codes": self.prototypes > 3 and record.get("loss", 0.0) > chance - self.margin and flat,
            "embeddings": record.get("rank", math.inf) < 1.5 or record.get("spread", 1.0) < 0.05,
        }
        for name, shown in signs.items():
            if not shown:
                self._since.pop(name, None)
                continue
            if step - self._since.setdefault(name, step) >= self.patience:
                raise TrainingDiverged(self._explain(name, record, chance))

    def _explain(self, sign: str, record: dict[str, float], chance: float) -> str:
        if sign == "embeddings":
            return (
                f"Expected `embeddings` to differ between images, but got an effective rank of "
                f"{record.get('rank', 0.0):.1f} and a spread of {record.get('spread', 0.0):.2f} at step "
                f"{int(record.get('step', 0))}: the encoder gives every image the same embedding. "
                "Use the preset small (normalised projector output), softer crops, or a lower learning rate."
            )
        return (
            f"Expected `loss` to fall below ln K = {chance:.3f}, but got {record.get('loss', 0.0):.3f} with codes as "
            f"flat as 1/K (largest {record.get('max_code', 0.0):.4f}, 1/K = {1 / self.prototypes:.4f}) for "
            f"{self.patience} steps: the prototypes have merged. Freeze the prototypes for good "
            "(freeze_prototypes_steps -1), lower epsilon to 0.03, use fewer prototypes, or softer crops."
        )
