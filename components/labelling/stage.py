"""The labelling stage on artifacts: CluP's first stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.errors import expected, unknown
from ..common.stage import StageRecord
from ..faces import open_unlabelled
from ..networks import load_imported
from ..networks.trained import skipped_reason
from .config import LabellingConfig
from .labels import pseudo_labels


def labelling_stage(
    target: Path | str,
    models: Mapping[str, Path | str],
    teacher: str,
    output: Path | str,
    record: StageRecord,
    *,
    score: str,
    clusters: int,
    keep: float,
    seed: int,
) -> dict[str, Any]:
    """Labels the target with a teacher and keeps the best labels of every class.

    The teacher looks at the faces as they are, in evaluation mode, without augmentation.

    Args:
        target: Unlabelled faces.
        models: The possible teachers by name.
        teacher: Name of the teacher, or ``auto``: ``adabn``, and ``source`` where that could not be made.
        output: The PseudoLabels folder to make.
        record: Receives warnings (classes that lost all their samples) and facts.
        score: ``purity`` or ``confidence``.
        clusters: Number of clusters; 0 for the rule.
        keep: Fraction that is kept per class; 0 for the rule.
        seed: Seed of k-means.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: The teacher is unknown or cannot exist for this source.
    """
    if teacher not in (*models, "auto"):
        raise unknown("labelling_teacher", teacher, ("auto", *sorted(models)))
    if teacher == "auto":
        teacher = "source" if skipped_reason(models["adabn"]) else "adabn"
    reason = skipped_reason(models[teacher])
    if reason:
        raise expected("labelling_teacher", "source for this model", teacher, reason)
    config = LabellingConfig(score=score, clusters=clusters or None, keep=keep or None, seed=seed)  # type: ignore[arg-type]
    faces = open_unlabelled(target)
    model = load_imported(models[teacher])
    outputs = model.outputs(faces.pixels(model.input_size, model.channels))
    found = pseudo_labels(outputs.logits.numpy(), outputs.features.numpy(), faces.keys, model.classes, config)
    found.save(output)
    kept, lost = int(found.columns.kept.sum()), found.summary["lost_classes"]
    for name, reason in lost.items():
        record.warn(
            f"No pseudo-label of {name} was kept ({reason}): the adapted model cannot learn it. "
            "More clusters, a larger labelling_keep or labelling_score=confidence may bring it back."
        )
    record.facts.update(teacher=teacher, kept=kept, clusters=found.summary["clusters"]["k"], lost_classes=sorted(lost))
    return {"kept": kept, "images": len(faces), "lost_classes": ", ".join(sorted(lost))}
