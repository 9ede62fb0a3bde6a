"""Settings of self-supervised pretraining, and the rule for the number of prototypes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ..common.errors import expected, unknown
from ..common.parameters import from_mapping

MethodName = Literal["swav", "deepcluster"]
Preset = Literal["published", "small"]
FOREVER = -1
"""Value of ``freeze_prototypes_steps`` that keeps the prototypes as they were drawn."""


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of SwAV and DeepClusterV2.

    Zero stands for "by the rule" where a field says so, because Kubeflow's form knows no empty numbers.

    Attributes:
        method: ``swav`` (Caron et al. 2020) or ``deepcluster`` (DeepClusterV2, same paper, appendix).
        preset: Where the other values came from.
        init: Where the encoder starts: ``random``, ``source``, or a folder of a saved encoder or classifier.
        epochs: Passes over the target.
        batch_size: Images per step over all processes.
        prototypes: Number of prototypes K; 0 takes :func:`suggest_prototypes`.
        heads: Prototype heads, each with K prototypes (DeepClusterV2 only).
        projector_hidden: Width of the projector's hidden layer.
        projector_output: Size D of the embedding.
        normalise_output: Whether a BatchNorm without affine parameters follows the projector. It keeps embeddings
            spread on small sets.
        temperature: Softmax temperature tau.
        epsilon: Weight of the entropy in the optimal transport; smaller makes sharper codes.
        sinkhorn_iterations: Sinkhorn-Knopp iterations.
        queue: Embeddings per assign view that widen the transport problem; 0 for none.
        queue_start_steps: Step from which a full queue is used.
        freeze_prototypes_steps: Steps in which prototypes get no gradient; -1 for ever.
        crops: Number of large and of small crops.
        views: Sizes and strength of the crops: ``published`` or ``small`` (see :mod:`ferry.training.views`).
        optimiser: ``sgd`` or ``lars``.
        learning_rate: Peak learning rate at this batch size.
        final_learning_rate: Learning rate at the end of the cosine.
        warmup_epochs: Epochs of linear warm-up.
        momentum: Momentum.
        weight_decay: Weight decay.
        precision: Precision of the loop.
        seed: Seed.
    """

    method: MethodName = "swav"
    preset: Preset = "small"
    init: str = "random"
    epochs: int = 20
    batch_size: int = 128
    prototypes: int = 0
    heads: int = 3
    projector_hidden: int = 512
    projector_output: int = 128
    normalise_output: bool = True
    temperature: float = 0.1
    epsilon: float = 0.03
    sinkhorn_iterations: int = 3
    queue: int = 1920
    queue_start_steps: int = 200
    freeze_prototypes_steps: int = FOREVER
    crops: tuple[int, ...] = (2, 2)
    views: Preset = "small"
    optimiser: Literal["sgd", "lars"] = "sgd"
    learning_rate: float = 0.1
    final_learning_rate: float = 1e-4
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(MethodName):
            raise unknown("pretraining", str(self.method), get_args(MethodName))
        for name in ("epochs", "batch_size", "projector_hidden", "projector_output", "sinkhorn_iterations", "heads"):
            if getattr(self, name) < 1:
                raise expected(name, "at least 1", getattr(self, name), "Pass a positive number.")
        for name in ("temperature", "epsilon", "learning_rate"):
            if not getattr(self, name) > 0:
                raise expected(name, "positive", getattr(self, name), "Pass a number such as 0.1.")
        for name in ("queue", "queue_start_steps", "prototypes"):
            if getattr(self, name) < 0:
                raise expected(
                    name, "zero or more", getattr(self, name), "Pass 0 to leave it to the rule or to switch it off."
                )
        if len(self.crops) != 2 or self.crops[0] < 2 or self.crops[1] < 0:
            rule = "two numbers: at least two large crops, and zero or more small ones"
            raise expected("crops", rule, self.crops, "Pass, for example, (2, 2).")


_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("swav", "small"): {},
    ("deepcluster", "small"): {"learning_rate": 0.1, "queue": 0},
    # SwAV, 200 to 400 epochs at batch 256 (official script), as far as it does not name ImageNet sizes.
    ("swav", "published"): {
        "epochs": 200,
        "batch_size": 256,
        "prototypes": 3000,
        "projector_hidden": 2048,
        "normalise_output": False,
        "epsilon": 0.05,
        "queue": 3840,
        "queue_start_steps": 5005,
        "freeze_prototypes_steps": 5005,
        "crops": (2, 6),
        "views": "published",
        "optimiser": "lars",
        "learning_rate": 0.6,
        "final_learning_rate": 0.0006,
        "weight_decay": 1e-6,
    },
    # DeepClusterV2, 400 epochs (official script), at the same batch as SwAV above.
    ("deepcluster", "published"): {
        "epochs": 400,
        "batch_size": 256,
        "prototypes": 3000,
        "projector_hidden": 2048,
        "normalise_output": False,
        "queue": 0,
        "freeze_prototypes_steps": FOREVER,
        "crops": (2, 4),
        "views": "published",
        "optimiser": "lars",
        "learning_rate": 0.6,
        "final_learning_rate": 0.0006,
        "weight_decay": 1e-6,
        "precision": "fp32",
    },
}


def preset(method: str, name: str, **changes: Any) -> PretrainingConfig:
    """Returns a preset with changes; changes that are zero or empty keep the preset's value.

    Args:
        method: ``swav`` or ``deepcluster``.
        name: ``published`` (for GPUs and ten thousands of faces) or ``small`` (for minutes on a CPU).
        **changes: Fields of :class:`PretrainingConfig`.

    Raises:
        UserError: A name is unknown or a value is wrong.
    """
    if method not in get_args(MethodName):
        raise unknown("pretraining", method, get_args(MethodName))
    if name not in get_args(Preset):
        raise unknown("pretraining_preset", name, get_args(Preset))
    kept = {
        key: value for key, value in changes.items() if key == "seed" or (value is not None and value not in ("", 0))
    }
    values = {**_PRESETS[method, name], "method": method, "preset": name, **kept}
    return from_mapping(PretrainingConfig, values, "pretraining.")


def suggest_prototypes(images: int, classes: int, batch_size: int, queue: int = 0) -> int:
    """Returns a number of prototypes K for a target set.

    The rule, the same for all data: about 75 images per prototype, but at least ten prototypes per class (the advice
    of SwAV's authors: an order of magnitude above the classes) and at most 3,000 (the published value). SwAV spreads
    each transport problem evenly over the prototypes, so K also stays at or below half of the embeddings in one
    problem, batch plus queue: with fewer, most prototypes would get no image.

    Args:
        images: Images in the target set.
        classes: Number of expression classes.
        batch_size: Images per step.
        queue: Embeddings in the queue.

    Example:
        >>> suggest_prototypes(28_709, 7, 128, 1920)
        380
        >>> suggest_prototypes(4_000, 7, 128, 1920)
        70
        >>> suggest_prototypes(300_000, 7, 256, 3840)
        2040
    """
    wanted = min(max(images / 75, 10 * classes), 3000)
    most = max((batch_size + queue) // 2, 2)
    return max(int(min(wanted, most)) // 10 * 10 or int(min(wanted, most)), 2)


def resolve(
    config: PretrainingConfig, images: int, classes: int, world: int = 1
) -> tuple[PretrainingConfig, list[str]]:
    """Fills in what depends on the data, and checks that the settings fit it.

    Args:
        config: The settings.
        images: Images in the target set.
        classes: Number of expression classes.
        world: Number of processes; the queue becomes a multiple of the batch so that it turns over evenly.

    Returns:
        The complete settings, and warnings.

    Raises:
        UserError: The target is smaller than a batch or than the number of prototypes, or the transport problem is
            smaller than the number of prototypes.
    """
    if images < config.batch_size:
        raise expected(
            "target",
            f"at least {config.batch_size} images, one batch",
            images,
            "Add faces, or lower pretraining_batch_size.",
        )
    queue = config.queue if config.method == "swav" else 0
    queue = min(queue, images // config.batch_size * config.batch_size) // config.batch_size * config.batch_size
    prototypes = config.prototypes or suggest_prototypes(images, classes, config.batch_size, queue or images)
    warnings: list[str] = []
    if prototypes > images:
        raise expected(
            "pretraining_prototypes",
            f"at most the number of images, {images}",
            prototypes,
            "Lower it, or pass 0 for the rule.",
        )
    points = config.batch_size + queue
    if config.method == "swav" and points < prototypes:
        raise expected(
            "pretraining_prototypes",
            f"at most batch plus queue, {config.batch_size} + {queue}",
            prototypes,
            f"Pass {suggest_prototypes(images, classes, config.batch_size, queue)}, or raise the queue.",
        )
    if config.method == "swav" and points < 2 * prototypes:
        warnings.append(
            f"Batch plus queue ({points}) is less than twice the number of prototypes ({prototypes}); many prototypes "
            f"will stay empty. {suggest_prototypes(images, classes, config.batch_size, queue)} would fit."
        )
    return replace(config, prototypes=prototypes, queue=queue), warnings


def chance_loss(prototypes: int) -> float:
    """Returns ln K, the loss of a network that tells no image from another."""
    return math.log(prototypes)
