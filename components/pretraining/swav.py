"""SwAV: swapped prediction between views through online codes.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.errors import TrainingDiverged, UserError
from ..networks import Encoder, Normalisation
from ..training import Batch
from ..training.distributed import all_gather_rows, all_reduce_sum, rank, world_size
from ..training.views import MultiCrop
from .collapse import health
from .config import FOREVER, PretrainingConfig
from .crops import normalised_crops
from .modules import CropMethod, Prototypes
from .sinkhorn import sinkhorn


def swapped_prediction_loss(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> Tensor:
    """Returns SwAV's loss (eq. 1 and 2, with multi-crop as in section 3.3).

    Every code is predicted from every other view; the mean runs over pairs and images.

    Args:
        scores: One tensor per view, float [B, K]: cosines with the prototypes.
        codes: One tensor per assign view, float [B, K], rows sum to 1; codes[a] belongs to scores[a].
        temperature: Softmax temperature.

    Returns:
        Scalar, float32.
    """
    views = len(scores)
    log_normalisers = [torch.logsumexp(score.float() / temperature, dim=1) for score in scores]
    # sum_k q_k log p_k = sum_k q_k s_k / tau - logsumexp(s / tau), because codes sum to 1: one pass instead of three.
    total = scores[0].new_zeros((), dtype=torch.float32)
    for index, code in enumerate(codes):
        for view in range(views):
            if view != index:
                agreement = (code * scores[view].float()).sum(1) / temperature
                total = total + (log_normalisers[view] - agreement).mean()
    return total / (len(codes) * (views - 1))


class SwAV(CropMethod):
    """SwAV as a method of the training loop; queue and prototypes are part of its state.

    Args:
        encoder: The encoder to pretrain.
        normalisation: Normalisation of the encoder's input.
        crops: The views of an image.
        config: Complete settings (see :func:`ferry.pretraining.resolve`).
    """

    queue: Tensor
    queue_filled: Tensor

    def __init__(
        self, encoder: Encoder, normalisation: Normalisation, crops: MultiCrop, config: PretrainingConfig
    ) -> None:
        super().__init__(encoder, normalisation, crops, config)
        learn = config.freeze_prototypes_steps != FOREVER
        self.prototypes = Prototypes(config.projector_output, config.prototypes, learn)
        self.register_buffer("queue", torch.zeros(self.assign_views, config.queue, config.projector_output))
        self.register_buffer("queue_filled", torch.zeros((), dtype=torch.long))

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss of this process's rows and the signs of health.

        Raises:
            TrainingDiverged: Embeddings are not finite.
        """
        embeddings = self.network(normalised_crops(batch, self.crops, self.normalisation))
        frozen = self._frozen(batch.step)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            scores = [self.prototypes(embedding, frozen) for embedding in embeddings]
            try:
                codes = [self._codes(view, scores[view], batch.step) for view in range(self.assign_views)]
            except UserError as error:  # the settings were checked before, so it is the scores
                raise TrainingDiverged(f"Step {batch.step + 1} of pretraining: {error}") from error
            loss = swapped_prediction_loss(scores, codes, self.config.temperature)
            signs = health(embeddings[0], codes[0], self.prototypes.weight)
        self._remember(embeddings[: self.assign_views])
        return {"loss": loss, **signs}

    def after_step(self, batch: Batch) -> None:
        """Brings prototypes that learn back onto the sphere."""
        if not self._frozen(batch.step):
            self.prototypes.normalise()

    def queue_in_use(self, step: int) -> bool:
        """Tells whether the queue takes part in a step; a half-filled one would pull the codes towards zeros."""
        started = self.config.queue > 0 and step >= self.config.queue_start_steps
        return started and int(self.queue_filled) >= self.config.queue

    def _frozen(self, step: int) -> bool:
        return self.config.freeze_prototypes_steps == FOREVER or step < self.config.freeze_prototypes_steps

    @torch.no_grad()
    def _codes(self, view: int, scores: Tensor, step: int) -> Tensor:
        """Returns the codes of this process's rows; the queue only widens the transport problem."""
        problem = scores.detach()
        if self.queue_in_use(step):
            share = self.queue[view][rank() :: world_size()]  # every process contributes its part of the queue once
            problem = torch.cat([problem, self.prototypes(share)])
        all_reduce = all_reduce_sum if world_size() > 1 else None
        codes = sinkhorn(problem, self.config.epsilon, self.config.sinkhorn_iterations, all_reduce=all_reduce)
        return codes[: len(scores)]

    @torch.no_grad()
    def _remember(self, embeddings: Sequence[Tensor]) -> None:
        """Puts the global batch in front of the queue."""
        length = self.config.queue
        if length == 0 or not self.training:
            return
        count = 0
        for view, embedding in enumerate(embeddings):
            rows = all_gather_rows(embedding.detach())
            count = len(rows)
            self.queue[view] = torch.cat([rows, self.queue[view]])[:length]
        self.queue_filled.add_(count).clamp_(max=length)
