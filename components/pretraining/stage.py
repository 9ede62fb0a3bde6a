"""The pretraining stage on artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common.stage import StageRecord
from ..networks.trained import skip_model
from .config import preset


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
    from .pretraining import pretrain_stage

    pretrain_stage(target, source, output, preset(method, name, **choices), record)
