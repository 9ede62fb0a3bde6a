"""The command line's main jobs as Python functions; offered as ``ferry.run``, ``ferry.demo`` and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .demo import DemoResult
    from .prediction import Prediction
    from .runner import RunResult


def run(
    pipeline: str,
    home: Path | str | None = None,
    seed: int = 0,
    *,
    say: Callable[[str], None] | None = None,
    **parameters: Any,
) -> RunResult:
    """Runs a pipeline on this machine, as ``ferry run`` does, and returns when it has ended.

    Args:
        pipeline: ``clup``, ``adabn`` or ``source``.
        home: Folder of runs and the local MLflow store; default ``$FERRY_HOME``, else ``.ferry``.
        seed: Fixes the run.
        say: Receives lines for people, for example ``print``; None is silent.
        **parameters: Parameters of the pipeline; see ``ferry parameters PIPELINE``.

    Returns:
        The run: ``metrics``, ``report``, ``artifact(task, output)`` and the whole ``record``.

    Raises:
        UserError: A parameter is unknown or wrong, or a path does not exist; nothing was started.
        RetryableError: Another run holds the home, or the MLflow server does not answer.
        RunFailed: A stage failed, or the run was interrupted; ``run.json`` and the log say why.
    """
    from .catalogue import find
    from .runner import Home, run_local

    return run_local(find(pipeline), {**parameters, "seed": seed}, Home.at(home), say=say)


def demo(
    home: Path | str | None = None, seed: int = 0, *, say: Callable[[str], None] | None = None, **changes: Any
) -> DemoResult:
    """Renders faces, trains a source model and adapts it with CluP, as ``ferry demo`` does.

    Args:
        home: Folder of runs and the local MLflow store; default ``$FERRY_HOME``, else ``.ferry``.
        seed: Fixes faces, source model and adaptation.
        say: Receives lines for people, for example ``print``; None is silent.
        **changes: Parameters of the CluP pipeline that replace the demo's.

    Returns:
        Both runs, ``source`` and ``clup``.

    Raises:
        RunFailed: A stage failed, or the run was interrupted.
        RetryableError: Another run holds the home.
    """
    from .demo import demo as run_demo
    from .runner import Home

    return run_demo(Home.at(home), seed, say, **changes)


def predict(
    model: Path | str,
    images: Path | str | Sequence[Path | str],
    *,
    home: Path | str | None = None,
    trust: bool = False,
) -> list[Prediction]:
    """Predicts the displayed expression of image files, as ``ferry predict`` does.

    Args:
        model: Model folder, foreign model, or ``models:/NAME@ALIAS``.
        images: Image files, or folders of them.
        home: Folder of the local MLflow store, for a model of the registry.
        trust: Whether a TorchScript file may be opened; it runs code.

    Returns:
        One prediction per image, in order; one without a label and with a note for an image that cannot be read.

    Raises:
        UserError: There is no such model or no such image.
    """
    from .prediction import predict_images

    given = [images] if isinstance(images, (str, Path)) else list(images)
    return predict_images(str(model), given, tracking_uri=_registry_of(model, home), trust=trust)


def serve(model: Path | str, *, home: Path | str | None = None, **settings: Any) -> None:
    """Serves a classifier over HTTP until the process is told to end, as ``ferry serve`` does.

    Args:
        model: Model folder, foreign model, or ``models:/NAME@ALIAS``.
        home: Folder of the local MLflow store, for a model of the registry.
        **settings: Fields of :class:`ferry.serving.ServeSettings`: ``host``, ``port``, ``name``, ``refresh``, ...

    Raises:
        UserError: There is no such model, or a setting is wrong.
    """
    from ..serving import ServeSettings
    from ..serving import serve as serve_model

    serve_model(str(model), ServeSettings(**settings), _registry_of(model, home))


def compile_pipeline(name: str, output: Path | str | None = None, *, choices: bool = True) -> str:
    """Compiles a pipeline to Kubeflow's YAML, as ``ferry compile`` does.

    Args:
        name: ``clup``, ``adabn`` or ``source``.
        output: The file to write; None writes none.
        choices: Whether parameters name the words that they take; servers older than 2.16 refuse a pipeline with them.

    Returns:
        The YAML; the same version of Ferry and kfp gives the same bytes.

    Raises:
        UserError: There is no such pipeline.
    """
    from ..common.files import write_text
    from . import catalogue

    text = catalogue.compile_pipeline(catalogue.find(name), choices=choices)
    if output is not None:
        write_text(output, text)
    return text


def _registry_of(model: Path | str, home: Path | str | None) -> str:
    """Returns the tracking URI for a model of the registry, and an empty text for every other one."""
    from ..training.runs import is_registry_uri
    from .runner import Home

    if not is_registry_uri(str(model)):
        return ""
    place = Home.find(home)
    place.require_store()
    return place.tracking_uri
