"""The labelling stage on artifacts: CluP's first stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.errors import expected, fields_as, unknown
from ..common.stage import StageRecord
from ..faces import open_unlabelled
from ..networks import load_imported
from ..networks.trained import skipped_reason
from .config import PRESETS
from .labels import pseudo_labels
from .teacher import teacher_outputs


def labelling_stage(
    target: Path | str,
    models: Mapping[str, Path | str],
    teacher: str,
    output: Path | str,
    record: StageRecord,
    *,
    preset: str = "clean",
    score: str,
    clusters: int,
    keep: float,
    seed: int,
) -> dict[str, Any]:
    """Labels the target with a teacher and keeps the best labels of every class.

    Args:
        target: Unlabelled faces.
        models: The possible teachers by name.
        teacher: Name of the teacher, or ``auto``: ``adabn``, and ``source`` where that could not be made and in the
            preset ``released``, as in the authors' code.
        output: The PseudoLabels folder to make.
        record: Receives warnings (classes that lost all their samples) and facts.
        preset: ``clean``: the recommended switches; the teacher looks at the faces as they are. ``released``: those of
            the authors' code, see :meth:`LabellingConfig.as_released`.
        score: ``purity`` or ``confidence``.
        clusters: Number of clusters; 0 for the preset's: a rule, or 1000.
        keep: Fraction that is kept per class; 0 for the preset's: 0.5, or 0.1.
        seed: Seed of k-means.

    Returns:
        Metadata of the artifact.

    Raises:
        UserError: The teacher is unknown or cannot exist for this source, or a setting does not fit the faces.
    """
    if teacher not in (*models, "auto"):
        raise unknown("labelling_teacher", teacher, ("auto", *sorted(models)))
    if teacher == "auto":
        teacher = "source" if preset == "released" or skipped_reason(models["adabn"]) else "adabn"
    reason = skipped_reason(models[teacher])
    if reason:
        raise expected("labelling_teacher", "source for this model", teacher, reason)
    if preset not in PRESETS:
        raise unknown("labelling_preset", preset, list(PRESETS))
    given = {name: value for name, value in (("clusters", clusters), ("keep", keep)) if value}
    with fields_as("labelling_", "score", "clusters", "keep"):
        config = PRESETS[preset](score=score, seed=seed, **given)
        faces = open_unlabelled(target)
        model = load_imported(models[teacher])
        logits, features = teacher_outputs(model, faces.pixels(model.input_size, model.channels), config.view, seed)
        found = pseudo_labels(logits, features, faces.keys, model.classes, config)
    found.summary["teacher"] = teacher
    found.save(output)
    kept, lost = int(found.columns.kept.sum()), found.summary["lost_classes"]
    others = [name for name in sorted(models) if name != teacher and not skipped_reason(models[name])]
    for name, reason in lost.items():
        advice = _advice(found.summary["per_class"][name], others)
        record.warn(f"No pseudo-label of {name} was kept ({reason}): the adapted model cannot learn it. {advice}")
    record.facts.update(teacher=teacher, kept=kept, clusters=found.summary["clusters"]["k"], lost_classes=sorted(lost))
    return {"kept": kept, "images": len(faces), "lost_classes": ", ".join(sorted(lost))}


def _advice(row: Mapping[str, Any], others: Sequence[str]) -> str:
    """Returns what may bring a lost class back, which depends on where it was lost.

    Args:
        row: The class in ``per_class`` of the summary.
        others: The other teachers that there are.
    """
    if not row["teacher"]:
        last = "another source model can bring it back, if the target has such faces at all."
        if not others:
            return f"Only {last}"
        return f"Try labelling_teacher={' or '.join(others)}; where that gives it to none either, only {last}"
    if not row["labelled"]:
        return "More labelling_clusters, or labelling_score=confidence, may bring it back."
    return "A larger labelling_keep, or labelling_preset=clean, which keeps at least one, brings it back."
