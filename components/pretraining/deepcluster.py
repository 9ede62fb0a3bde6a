"""DeepClusterV2: k-means on last epoch's embeddings gives this epoch's classes.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020, section 4.1
and appendix; the memory bank follows the official script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..clustering import kmeans
from ..networks import Encoder, Normalisation
from ..training import Batch, Method
from ..training.distributed import all_gather_rows
from ..training.views import MultiCrop
from .collapse import CollapseWatch, effective_rank
from .config import PretrainingConfig
from .crops import normalised_crops
from .modules import ProjectedEncoder, Prototypes

_LLOYD_STEPS = 10
_UNASSIGNED = -100


def cluster_prediction_loss(scores: Sequence[Tensor], targets: Tensor, temperature: float) -> Tensor:
    """Returns the mean cross-entropy of all views against the image's cluster.

    Args:
        scores: One tensor per view, float [B, K]: cosines with the centroids.
        targets: Cluster of each image, int64 [B]; -100 for an image that has none.
        temperature: Softmax temperature.

    Returns:
        Scalar, float32; zero with a zero gradient where no image has a cluster.
    """
    known = targets != _UNASSIGNED
    count = known.sum().clamp_min(1)
    safe = targets.clamp_min(0)
    losses = [functional.cross_entropy(score.float() / temperature, safe, reduction="none") for score in scores]
    return torch.stack([(loss * known).sum() / count for loss in losses]).mean()


class DeepClusterV2(Method):
    """DeepClusterV2 as a method of the training loop; memory bank and assignments are part of its state.

    Args:
        encoder: The encoder to pretrain.
        normalisation: Normalisation of the encoder's input.
        crops: The views of an image.
        config: Complete settings (see :func:`ferry.pretraining.resolve`).
        images: Number of images N in the target.
    """

    bank: Tensor
    assignments: Tensor

    def __init__(
        self,
        encoder: Encoder,
        normalisation: Normalisation,
        crops: MultiCrop,
        config: PretrainingConfig,
        images: int,
    ) -> None:
        super().__init__()
        self.config, self.crops, self.normalisation = config, crops, normalisation
        self.network = ProjectedEncoder(encoder, config)
        self.assign_views = 2
        self.heads = nn.ModuleList(
            Prototypes(config.projector_output, config.prototypes, learn=False) for _ in range(config.heads)
        )
        self.register_buffer("bank", torch.zeros(self.assign_views, images, config.projector_output))
        self.register_buffer("assignments", torch.full((config.heads, images), _UNASSIGNED))
        self._watch = CollapseWatch(config.prototypes)

    def start_epoch(self, epoch: int, context: Any) -> None:
        """Clusters the bank, once per head, and makes the centroids the head's prototypes.

        The first epoch has no embeddings yet: they come from one pass over the images.
        """
        if epoch == 0:
            self._fill_bank(context)
        for head, prototypes in enumerate(self.heads):
            rows = self.bank[head % self.assign_views].float().cpu().numpy()
            seed = self.config.seed * 1_000_003 + epoch * 101 + head
            result = kmeans(rows, self.config.prototypes, seed=seed, iterations=_LLOYD_STEPS, spherical=True)
            centroids = torch.from_numpy(result.centroids).to(self.bank.device)
            prototypes.weight.copy_(functional.normalize(centroids, dim=1))
            self.assignments[head] = torch.from_numpy(result.assignments).to(self.bank.device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss of this process's rows and the signs of health."""
        crops = normalised_crops(batch, self.crops, self.normalisation)
        embeddings = self.network(crops)
        indices = batch.indices.to(self.bank.device)
        with torch.autocast(batch.pixels.device.type, enabled=False):
            losses = []
            for prototypes, assigned in zip(self.heads, self.assignments, strict=True):
                scores = [prototypes(embedding) for embedding in embeddings]
                losses.append(cluster_prediction_loss(scores, assigned[indices], self.config.temperature))
            loss = torch.stack(losses).mean()
        self._remember(embeddings[: self.assign_views], batch)
        with torch.no_grad():
            likely = torch.softmax(self.heads[0](embeddings[0].detach()) / self.config.temperature, dim=1)
            counts = torch.bincount(self.assignments[0].clamp_min(0), minlength=self.config.prototypes).double()
            shares = (counts / counts.sum()).clamp_min(1e-12)
            signs = {
                "max_code": float(likely.max(1).values.mean()),
                "perplexity": float(torch.exp(-(shares * torch.log(shares)).sum())),
                "rank": effective_rank(embeddings[0].detach()),
            }
        return {"loss": loss, **{name: loss.new_tensor(value) for name, value in signs.items()}}

    def watch(self, record: dict[str, float]) -> None:
        """Stops a collapsed training.

        Raises:
            TrainingDiverged: The training has collapsed.
        """
        self._watch.look(record)

    @torch.no_grad()
    def _remember(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        indices = batch.global_indices.to(self.bank.device)
        for view, embedding in enumerate(embeddings):
            self.bank[view, indices] = all_gather_rows(embedding.detach())

    @torch.no_grad()
    def _fill_bank(self, context: Any) -> None:
        """Fills the bank from one pass in evaluation mode without augmentation; every process does the whole pass."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            for indices, pixels in context.batches(self.config.batch_size):
                values = pixels.float() / 255.0
                mean = values.new_tensor(self.normalisation.mean).view(1, -1, 1, 1)
                std = values.new_tensor(self.normalisation.std).view(1, -1, 1, 1)
                (embedding,) = self.network([(values - mean) / std])
                self.bank[:, indices.to(self.bank.device)] = embedding
        finally:
            for module, mode in modes.items():
                module.training = mode
