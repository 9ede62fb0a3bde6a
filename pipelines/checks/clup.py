"""Rules for the values of the pipeline clup. Knows no kfp: stages run it too, where kfp defines nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args


def choices() -> dict[str, tuple[str, ...]]:
    """Returns the words of every parameter that takes no others."""
    from ...adaptation.config import Start
    from ...labelling.config import PRESETS, Score
    from ...pretraining.config import MethodName, Preset
    from ...training.config import PRECISIONS
    from .choices import layouts

    return {
        **dict.fromkeys(("target_layout", "holdout_layout"), layouts()),
        "labelling_score": get_args(Score),
        "labelling_teacher": ("auto", "source", "adabn"),
        "labelling_preset": tuple(PRESETS),
        "pretraining": (*get_args(MethodName), "none"),
        "pretraining_preset": get_args(Preset),
        "finetuning_start": get_args(Start),
        "precision": PRECISIONS,
    }


def check(values: Mapping[str, Any]) -> None:
    """Checks values beyond their types, before anything runs.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ...adaptation.config import FinetuningConfig
    from ...common.errors import expected, fields_as
    from ...labelling.config import LabellingConfig
    from .choices import check_adaptation, check_words

    check_words(values, choices())
    check_adaptation(values)
    _check_pretraining(values)
    names = ("start", "epochs", "batch_size", "learning_rate", "mixup")
    FinetuningConfig(**{name: values[f"finetuning_{name}"] for name in names})
    if values["finetuning_mixup"] < 0:
        raise expected("finetuning_mixup", "zero or positive", values["finetuning_mixup"], "Pass 0 for none.")
    with fields_as("labelling_", "clusters", "keep"):
        LabellingConfig(
            score=values["labelling_score"],
            clusters=values["labelling_clusters"] or None,
            keep=values["labelling_keep"] or None,
        )
    _check_foreign(values)


def preflight(values: Mapping[str, Any]) -> int:
    """Checks the values of a run that no command of Ferry has started, in a pod that may not see every path.

    Args:
        values: All parameters.

    Returns:
        How many faces the target must have at least for these values.

    Raises:
        UserError: A value is not one of its choices or out of range.
    """
    from ..catalogue import check_number

    for name, value in values.items():
        check_number(name, value)
    init = values["pretraining_init"]
    check({**values, "pretraining_init": "auto" if "/" in init else init})
    return least_faces(values)


def least_faces(values: Mapping[str, Any]) -> int:
    """Returns how many faces the target must have for the clusters, the prototypes and one batch.

    Args:
        values: All parameters, checked.
    """
    from ...labelling.config import PRESETS
    from ...pretraining.config import preset

    labelling = PRESETS[values["labelling_preset"]]()
    needed = [values["labelling_clusters"] or labelling.clusters or 1]
    if values["pretraining"] != "none":
        changes = {name: values[f"pretraining_{name}"] for name in ("batch_size", "prototypes")}
        config = preset(values["pretraining"], values["pretraining_preset"], **changes)
        needed += [config.batch_size, config.prototypes]
    return max(needed)


def _check_pretraining(values: Mapping[str, Any]) -> None:
    from ...common.errors import closest, expected
    from ...pretraining.config import FIRST_WEIGHTS, preset

    if values["pretraining"] != "none":
        fields = ("init", "epochs", "batch_size", "prototypes", "learning_rate")
        changes = {name: values[f"pretraining_{name}"] for name in fields}
        preset(values["pretraining"], values["pretraining_preset"], **changes)
        init = values["pretraining_init"]
        if init not in (*FIRST_WEIGHTS, "") and not (Path(init) / "model.json").is_file():
            fix = closest(init, FIRST_WEIGHTS).strip() or "Check the path."
            raise expected("pretraining_init", "auto, random, source or the folder of a saved model", init, fix)
    elif values["finetuning_start"] == "pretrained":
        fix = "Pass -p finetuning_start=source, adabn or scratch, or choose a pretraining."
        raise expected("finetuning_start", "another than pretrained without a pretraining", "pretrained", fix)


def _check_foreign(values: Mapping[str, Any]) -> None:
    """Finds now what needs the weights of a source model that gives none."""
    from ...common.errors import expected
    from .choices import is_foreign

    if not is_foreign(values["source"]):
        return
    for name, needs, others in (
        ("labelling_teacher", ("adabn",), "auto or source"),
        ("pretraining_init", ("source",), "auto, random or the folder of a saved model"),
        ("finetuning_start", ("source", "adabn"), "pretrained or scratch"),
    ):
        if values[name] in needs:
            fix = "The weights of a foreign model cannot be trained; only what it predicts is used."
            rule = f"{others} for the foreign source model {Path(values['source']).name}"
            raise expected(name, rule, values[name], fix)
