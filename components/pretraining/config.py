"""Settings of self-supervised pretraining, and the rule for the number of prototypes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ..common.errors import UserError, expected, unknown
from ..common.parameters import from_mapping
from ..training.config import PRECISIONS, LoopConfig

MethodName = Literal["swav", "deepcluster"]
Preset = Literal["published", "small"]
OptimiserName = Literal["sgd", "lars"]
FOREVER = -1
"""Value of ``freeze_prototypes_steps`` that keeps the prototypes as they were drawn."""

FIRST_WEIGHTS = ("auto", "random", "source")
"""Words for ``init``; everything else is the folder of a saved model."""


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of SwAV and DeepClusterV2.

    Zero stands for "by the rule" where a field says so, because Kubeflow's form knows no empty numbers.

    Attributes:
        method: ``swav`` (Caron et al. 2020) or ``deepcluster`` (DeepClusterV2, same paper, appendix).
        preset: Where the other values came from.
        init: Where the encoder starts: ``random``, ``source``, a folder of a saved encoder or classifier, or ``auto``:
            ``source`` where the source model's weights are known, ``random`` where it is a foreign one.
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
        queue: Embeddings per assign view that widen the transport problem; 0 for none. On small sets it hurts: half an
            epoch of old embeddings pulled the loss back up and halved the rank of the embeddings when it began.
        queue_start_steps: Step from which a full queue is used; 0 as soon as it is full.
        freeze_prototypes_steps: Steps in which prototypes get no gradient; -1 for ever. DeepClusterV2 never trains
            its prototypes.
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
    init: str = "auto"
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
    queue: int = 0
    queue_start_steps: int = 200
    freeze_prototypes_steps: int = FOREVER
    crops: tuple[int, ...] = (2, 2)
    views: Preset = "small"
    optimiser: OptimiserName = "sgd"
    learning_rate: float = 0.2
    final_learning_rate: float = 1e-4
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        words = {"method": MethodName, "preset": Preset, "views": Preset, "optimiser": OptimiserName}
        for name, known in words.items():
            if getattr(self, name) not in get_args(known):
                raise unknown(_field(name), str(getattr(self, name)), get_args(known))
        if self.precision not in PRECISIONS:
            raise unknown(_field("precision"), str(self.precision), PRECISIONS)
        for name in ("epochs", "projector_hidden", "projector_output", "sinkhorn_iterations", "heads"):
            if getattr(self, name) < 1:
                raise expected(_field(name), "at least 1", getattr(self, name), "Pass a positive number.")
        if self.batch_size < 2:
            raise expected(_field("batch_size"), "at least 2", self.batch_size, "Statistics need two images.")
        for name in ("temperature", "epsilon", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise expected(_field(name), "positive", getattr(self, name), "Pass a number such as 0.1.")
        for name in ("queue", "queue_start_steps", "prototypes", "seed"):
            if getattr(self, name) < 0:
                raise expected(_field(name), "zero or more", getattr(self, name), "Pass a whole number, or 0.")
        if self.freeze_prototypes_steps < FOREVER:
            rule, fix = "zero or more, or -1 for ever", "Pass a number of steps."
            raise expected(_field("freeze_prototypes_steps"), rule, self.freeze_prototypes_steps, fix)
        if len(self.crops) != 2 or self.crops[0] < 2 or self.crops[1] < 0:
            rule = "two numbers: at least two large crops, and zero or more small ones"
            raise expected(_field("crops"), rule, self.crops, "Pass, for example, (2, 2).")
        self.loop()

    def loop(self) -> LoopConfig:
        """Returns the settings of the training loop.

        Raises:
            UserError: One of them is out of its range.
        """
        try:
            return LoopConfig(
                epochs=self.epochs,
                batch_size=self.batch_size,
                optimiser=self.optimiser,
                learning_rate=self.learning_rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                schedule="cosine",
                final_learning_rate=self.final_learning_rate,
                warmup_epochs=self.warmup_epochs,
                precision=self.precision,  # type: ignore[arg-type]
                seed=self.seed,
                drop_last=True,
            )
        except UserError as error:
            raise UserError(f"{error} It is part of the pretraining's settings.") from error


def _field(name: str) -> str:
    """The name under which a pipeline knows a field."""
    return "pretraining" if name == "method" else f"pretraining_{name}"


_PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("swav", "small"): {},
    # Its labels are a pass old. At SwAV's learning rate and temperature the network is wrong about them with
    # confidence: from random weights on 4,459 faces the loss stayed above ln K and the rank fell to 5. With these
    # two it ends 0.8 below ln K with a rank of 53.
    ("deepcluster", "small"): {"learning_rate": 0.05, "temperature": 0.2},
    # SwAV, 200 to 400 epochs at batch 256 (official script). It starts the queue at epoch 15; 1,680 steps are 15
    # epochs of FER2013's 28,709 images, while those of ImageNet would never be reached on a face set.
    ("swav", "published"): {
        "init": "random",
        "epochs": 200,
        "batch_size": 256,
        "prototypes": 3000,
        "projector_hidden": 2048,
        "normalise_output": False,
        "epsilon": 0.05,
        "queue": 3840,
        "queue_start_steps": 1680,
        "freeze_prototypes_steps": 5005,
        "crops": (2, 6),
        "views": "published",
        "optimiser": "lars",
        "learning_rate": 0.6,
        "final_learning_rate": 0.0006,
        "weight_decay": 1e-6,
    },
    # DeepClusterV2, 400 epochs (official script for batch 4,096), at batch and learning rate of SwAV above.
    ("deepcluster", "published"): {
        "init": "random",
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
        "warmup_epochs": 10.0,
        "weight_decay": 1e-6,
        "precision": "fp32",
    },
}


_ZERO_IS_PRESET = ("epochs", "batch_size", "prototypes", "learning_rate")
"""Fields for which a form's zero means the preset's value; for others (the queue, a decay) zero is a value."""


def preset(method: str, name: str, **changes: Any) -> PretrainingConfig:
    """Returns a preset with changes.

    Kubeflow's form knows no empty numbers: None, an empty string, ``auto``, and zero where it could not be meant
    (epochs, batch_size, prototypes, learning_rate) keep the preset's value.

    Args:
        method: ``swav`` or ``deepcluster``.
        name: ``published`` (for GPUs and ten thousands of faces) or ``small`` (for minutes on a CPU).
        **changes: Fields of :class:`PretrainingConfig`.

    Raises:
        UserError: A name is unknown or a value is wrong.

    Example:
        >>> preset("swav", "small", epochs=0, queue=0).queue
        0
        >>> preset("swav", "published").prototypes
        3000
    """
    if method not in get_args(MethodName):
        raise unknown("pretraining", method, get_args(MethodName))
    if name not in get_args(Preset):
        raise unknown("pretraining_preset", name, get_args(Preset))
    kept = {key: value for key, value in changes.items() if not _is_left_open(key, value)}
    base = _PRESETS[method, name]
    values = {**base, "method": method, "preset": name, **kept}
    if "epochs" in kept and base.get("warmup_epochs") and "warmup_epochs" not in kept:  # keeps its share of the run
        values["warmup_epochs"] = base["warmup_epochs"] * float(kept["epochs"]) / base["epochs"]
    return from_mapping(PretrainingConfig, values, "pretraining_")


def _is_left_open(key: str, value: Any) -> bool:
    if value is None or value in ("", "auto"):
        return True
    return key in _ZERO_IS_PRESET and value in (0, "0", "0.0")


def suggest_prototypes(images: int, classes: int, batch_size: int, queue: int = 0) -> int:
    """Returns a number of prototypes K for a target set.

    The rule, the same for all data: about 75 images per prototype, but at least ten prototypes per class (the advice
    of SwAV's authors: an order of magnitude above the classes) and at most 3,000 (the published value). With fewer
    than two embeddings per prototype most prototypes would get no image, so K also stays at or below half of what is
    shared out at a time: with SwAV the embeddings in one transport problem, batch plus queue, and never more than
    half of the images; with DeepClusterV2, which clusters them all at once, half of the images.

    Args:
        images: Images in the target set.
        classes: Number of expression classes.
        batch_size: Images per step; for DeepClusterV2, which has no transport problem, all images.
        queue: Embeddings in the queue.

    Returns:
        K, at least 2; a multiple of ten from ten on.

    Example:
        >>> suggest_prototypes(28_709, 7, 128, 1920)
        380
        >>> suggest_prototypes(4_000, 7, 128, 1920)
        70
        >>> suggest_prototypes(300_000, 7, 256, 3840)
        2040
        >>> suggest_prototypes(60, 7, 32)
        10
    """
    wanted = min(max(images / 75, 10 * classes), 3000)
    most = max(min(batch_size + queue, images) // 2, 2)
    count = int(min(wanted, most))
    return max(count // 10 * 10 or count, 2)


def resolve(config: PretrainingConfig, images: int, classes: int) -> tuple[PretrainingConfig, list[str]]:
    """Fills in what depends on the data, and checks that the settings fit it.

    The queue gets no longer than an epoch, and a multiple of the batch so that it turns over evenly. A queue that
    would start after the training's last step is left out.

    Args:
        config: The settings.
        images: Images in the target set.
        classes: Number of expression classes.

    Returns:
        The complete settings, and warnings.

    Raises:
        UserError: The target is smaller than a batch or than the number of prototypes, or the transport problem is
            smaller than the number of prototypes.
    """
    if images < config.batch_size:
        rule, fix = f"at least {config.batch_size} images, one batch", "Add faces, or lower pretraining_batch_size."
        raise expected("target", rule, f"{images} images", fix)
    queue, warnings = _fitting_queue(config, images)
    points = config.batch_size + queue if config.method == "swav" else images
    suggestion = suggest_prototypes(images, classes, points)
    prototypes = config.prototypes or suggestion
    if prototypes > images:
        rule, fix = f"at most the number of images, {images}", f"Pass {suggestion}, or 0 for the rule."
        raise expected("pretraining_prototypes", rule, prototypes, fix)
    if points < prototypes:
        rule = f"at most batch plus queue, {config.batch_size} + {queue}"
        fix = " ".join([f"Pass {suggestion}, or raise the batch size or the queue.", *warnings])
        raise expected("pretraining_prototypes", rule, prototypes, fix)
    if points < 2 * prototypes and config.prototypes:
        warnings.append(
            f"Batch plus queue ({points}) is less than twice the number of prototypes ({prototypes}); many prototypes "
            f"will stay empty. {suggestion} would fit."
            if config.method == "swav"
            else f"{prototypes} prototypes for {points} images leave many clusters with one image or none. "
            f"{suggestion} would fit."
        )
    return replace(config, prototypes=prototypes, queue=queue), warnings


def _fitting_queue(config: PretrainingConfig, images: int) -> tuple[int, list[str]]:
    """Returns the length of the queue that fits the data, and warnings."""
    if config.method != "swav" or config.queue == 0:
        return 0, []
    steps_per_epoch = images // config.batch_size
    queue = min(config.queue, steps_per_epoch * config.batch_size)
    if queue > config.batch_size:
        queue = queue // config.batch_size * config.batch_size
    filled = -(-queue // config.batch_size)
    start, total = max(config.queue_start_steps, filled), steps_per_epoch * config.epochs
    if start < total:
        return queue, []
    return 0, [
        f"The queue would start at step {start}, but the training has {total} steps; it goes on without a queue. "
        f"pretraining_epochs of at least {start // steps_per_epoch + 1} would use it."
    ]


def chance_loss(prototypes: int) -> float:
    """Returns ln K, the loss of a network that tells no image from another."""
    return math.log(prototypes)
