"""DeepClusterV2: k-means on last epoch's embeddings gives this epoch's classes.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020, section 4.1
and appendix; the memory bank follows the official script.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..clustering import kmeans
from ..networks import Encoder, Normalisation
from ..training import Batch, Context
from ..training.batches import seed_for, share
from ..training.distributed import all_gather_rows, broadcast_bytes, broadcast_tensors, rank, world_size
from ..training.views import MultiCrop, views
from .collapse import health, perplexity
from .config import PretrainingConfig
from .crops import normalised_crops, normalised_images
from .modules import CropMethod, Prototypes, unchanged_buffers

_LLOYD_STEPS = 10
UNASSIGNED = -100
"""Cluster of an image that has none."""


def cluster_prediction_loss(scores: Sequence[Tensor], targets: Tensor, temperature: float) -> Tensor:
    """Returns the mean cross-entropy of all views against the image's cluster.

    Args:
        scores: One tensor per view, float [B, K]: cosines with the centroids.
        targets: Cluster of each image, int64 [B]; -100 for an image that has none.
        temperature: Softmax temperature.

    Returns:
        Scalar, float32; zero with a zero gradient where no image has a cluster.
    """
    known = targets != UNASSIGNED
    count = known.sum().clamp_min(1)
    safe = targets.clamp_min(0)
    losses = [functional.cross_entropy(score.float() / temperature, safe, reduction="none") for score in scores]
    return torch.stack([(loss * known).sum() / count for loss in losses]).mean()


class DeepClusterV2(CropMethod):
    """DeepClusterV2 as a method of the training loop; memory bank and assignments are part of its state.

    Args:
        encoder: The encoder to pretrain.
        normalisation: Normalisation of the encoder's input.
        crops: The views of an image.
        config: Complete settings (see :func:`ferry.pretraining.resolve`).
        images: Number of images N in the target.

    Attributes:
        bank: Float32 [2, N, D], each image's last embedding in either assign view.
        assignments: int64 [heads, N], each image's cluster in this epoch.
        heads: The centroids; they get no gradient.
    """

    bank: Tensor
    assignments: Tensor

    def __init__(
        self, encoder: Encoder, normalisation: Normalisation, crops: MultiCrop, config: PretrainingConfig, images: int
    ) -> None:
        super().__init__(encoder, normalisation, crops, config, config.heads)
        self.heads = nn.ModuleList(
            Prototypes(config.projector_output, config.prototypes, learn=False) for _ in range(config.heads)
        )
        self.register_buffer("bank", torch.zeros(self.assign_views, images, config.projector_output))
        self.register_buffer("assignments", torch.full((config.heads, images), UNASSIGNED))

    @torch.no_grad()
    def start_epoch(self, epoch: int, context: Context) -> None:
        """Clusters the bank, once per head, and makes the centroids the head's prototypes.

        The first epoch has no embeddings yet: they come from one pass over the images. A cluster that lost all its
        images keeps its centroid. Process 0 clusters for all, because processors of different kinds round differently.

        Raises:
            UserError: Embeddings are not finite.
            RetryableError: In the other processes, when process 0 could not cluster.
        """
        if epoch == 0:
            self._fill_bank(context)
        done: bytes | None = None
        try:
            if rank() == 0:
                self._cluster(epoch)
            done = b"done"
        finally:
            broadcast_bytes(done, self.bank.device)  # an error of process 0 ends the others, too
        broadcast_tensors([self.assignments, *self.heads.buffers()])

    def _cluster(self, epoch: int) -> None:
        for head, module in enumerate(self.heads):
            rows = self.bank[head % self.assign_views].float().cpu().numpy()
            seed = seed_for("start", self.config.seed, epoch, head)
            result = kmeans(
                rows, self.config.prototypes, seed=seed, iterations=_LLOYD_STEPS, spherical=True, empty="keep"
            )
            centroids = torch.from_numpy(result.centroids).to(self.bank.device)
            cast(Prototypes, module).weight.copy_(functional.normalize(centroids, dim=1))
            self.assignments[head] = torch.from_numpy(result.assignments).to(self.bank.device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss of this process's rows and the signs of health."""
        embeddings = self.network(normalised_crops(batch, self.crops, self.normalisation))
        targets = self.assignments[:, batch.indices.to(self.bank.device)]
        temperature = self.config.temperature
        with torch.autocast(batch.pixels.device.type, enabled=False):
            scores = [[head(embedding) for embedding in embeddings] for head in self.heads]
            losses = [
                cluster_prediction_loss(own, target, temperature) for own, target in zip(scores, targets, strict=True)
            ]
            loss = torch.stack(losses).mean()
            likely = torch.softmax(scores[0][0].detach() / temperature, dim=1)
            signs = health(embeddings[0], likely, cast(Prototypes, self.heads[0]).weight)
        self._remember(embeddings[: self.assign_views], batch)
        return {"loss": loss, **signs, "perplexity": self._cluster_perplexity()}

    @torch.no_grad()
    def _cluster_perplexity(self) -> Tensor:
        """The number of clusters of the first head that are used alike."""
        assigned = self.assignments[0]
        counts = torch.bincount(assigned[assigned != UNASSIGNED], minlength=self.config.prototypes).double()
        return perplexity(counts / counts.sum().clamp_min(1.0))

    @torch.no_grad()
    def _remember(self, embeddings: Sequence[Tensor], batch: Batch) -> None:
        if not self.training:
            return
        indices = batch.part_indices.to(self.bank.device)
        for view, embedding in enumerate(embeddings):
            self.bank[view, indices] = all_gather_rows(embedding.detach()).to(self.bank.dtype)

    @torch.no_grad()
    def _fill_bank(self, context: Context) -> None:
        """Fills the bank from one pass with a random view of each image per assign view, as the official script does.

        Batch norm takes the batch's statistics, as it will in the steps. Under its running ones, which are still those
        of a fresh projector, all embeddings point one way and the clusters say nothing. The images are shuffled,
        because stored ones often come class after class, and a batch of one class would lose what they share.
        """
        crops = MultiCrop(((self.crops.crops[0][0], self.assign_views),))
        order = torch.randperm(context.size, generator=context.generator)
        parts = max(1, context.size // self.config.batch_size)
        with unchanged_buffers(self.network), context.autocast():
            for part in range(parts):
                indices = order[share(slice(0, context.size), parts, part)].to(self.bank.device)
                own = share(slice(0, len(indices)), world_size(), rank())
                drawn = views(context.fetch(indices[own]), crops, context.generator, rows=own)
                embeddings = self.network([normalised_images(view, self.normalisation) for view in drawn])
                for view, embedding in enumerate(embeddings):
                    self.bank[view, indices] = all_gather_rows(embedding).to(self.bank.dtype)
