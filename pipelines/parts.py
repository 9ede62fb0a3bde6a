"""What the pipelines of all adaptations begin and end with: imports, evaluation, registration.

Called while a pipeline is compiled; the values are its parameters, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..evaluation.component import evaluate
from ..faces.component import import_holdout, import_target
from ..networks.component import import_model
from ..registry.component import register
from .preflight import take_snapshot


@dataclass(frozen=True)
class Imported:
    """The tasks of the imports.

    Attributes:
        target: Unlabelled target faces.
        source: The source model.
        holdout: Labelled faces, for the evaluation alone.
    """

    target: Any
    source: Any
    holdout: Any

    @property
    def inputs(self) -> dict[str, Any]:
        """What an adaptation sees."""
        return {"target": self.target.outputs["faces"], "source": self.source.outputs["model"]}


def named(values: Mapping[str, Any], prefix: str, *names: str) -> dict[str, Any]:
    """Returns the values that begin with a prefix, without it: all of them, or those of `names` that are there."""
    found = {name.removeprefix(f"{prefix}_"): value for name, value in values.items() if name.startswith(f"{prefix}_")}
    return {name: found[name] for name in names if name in found} if names else found


def import_all(values: Mapping[str, Any], checked: Any = None) -> Imported:
    """Adds the imports of target, source model and holdout.

    Args:
        values: ``target``, ``source``, ``holdout`` and what is named after them.
        checked: The task that checks all values before anything is read, where the pipeline has one.
    """
    of_target = named(values, "target", "layout", "split", "max_skipped")
    places = {name: values[name] for name in ("target", "source", "holdout", "target_labels") if name in values}
    snapshot = take_snapshot(**places).set_caching_options(False)
    least = {}
    if checked is not None:
        snapshot.after(checked)
        least = {"min_faces": checked.output}
    target = import_target(source=values["target"], **of_target, **least, snapshot=snapshot.outputs["target"])
    source = import_model(source=values["source"], **named(values, "source"), snapshot=snapshot.outputs["source"])
    labels = {}
    if "target_labels" in values:
        labels = {"target_labels": values["target_labels"]}
        labels.update({f"target_labels_{name}": of_target[name] for name in ("layout", "split")})
    holdout = import_holdout(
        target=target.outputs["faces"],
        model=source.outputs["model"],
        source=values["holdout"],
        **named(values, "holdout", "layout", "split", "max_skipped", "allow_overlap"),
        **labels,
        snapshot=snapshot.outputs["holdout"],
    )
    return Imported(target, source, holdout)


def evaluate_and_register(
    imported: Imported, model: Any, values: Mapping[str, Any], *, method: str, **artifacts: Any
) -> None:
    """Adds evaluation and registration of an adapted model.

    Args:
        imported: The tasks of the imports.
        model: The adapted model, an output of a task.
        values: ``holdout_classes``, ``model_name`` and ``seed``.
        method: Name of the method in the report.
        **artifacts: What else the evaluation takes, where the method has it.
    """
    results = evaluate(
        **imported.inputs,
        holdout=imported.holdout.outputs["faces"],
        adapted=model,
        **artifacts,
        method=method,
        scored=values["holdout_classes"],
        seed=values["seed"],
    )
    registration = register(
        model=model,
        evaluation=results.outputs["evaluation"],
        report=results.outputs["report"],
        name=values["model_name"],
    )
    registration.set_caching_options(False)  # the registry may have forgotten it
