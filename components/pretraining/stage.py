"""The pretraining stage on artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..common.stage import StageRecord
from ..networks.trained import skip_model
from ..training.launch import launch
from .config import FIRST_WEIGHTS, preset


def run_stage(
    target: Path | str,
    source: Path | str,
    output: Path | str,
    record: StageRecord,
    *,
    method: str,
    name: str,
    **choices: Any,
) -> None:
    """Pretrains an encoder, or says that none was wanted.

    Args:
        target: Unlabelled faces.
        source: The source model.
        output: Folder of the encoder to write.
        record: Receives warnings and facts.
        method: ``swav``, ``deepcluster`` or ``none``.
        name: Name of the preset.
        **choices: Changes to the preset; zero keeps its value.
    """
    if method == "none":
        skip_model(output, "No pretraining was asked for.")
        return
    config = preset(method, name, **choices)  # a wrong choice is found before processes are started
    inputs = {"target": target, "source": source}
    if config.init not in FIRST_WEIGHTS:
        inputs["init"] = config.init
    launch(pretrain_on, inputs, output, record, method=method, name=name, **choices)


def pretrain_on(
    inputs: Mapping[str, Path | str], output: Path | str, record: StageRecord, *, method: str, name: str, **choices: Any
) -> None:
    """Pretrains an encoder; the work of every process of a distributed pretraining.

    Args:
        inputs: Paths of ``target``, ``source`` and, where the first weights come from a saved model, ``init``.
        output: Folder of the encoder to write.
        record: Receives warnings and facts.
        method: ``swav`` or ``deepcluster``.
        name: Name of the preset.
        **choices: Changes to the preset.
    """
    from .pretraining import pretrain_stage

    if "init" in inputs:  # on another machine it lies elsewhere
        choices["init"] = str(inputs["init"])
    pretrain_stage(inputs["target"], inputs["source"], output, preset(method, name, **choices), record)
