"""What a container image must be able to do, asked when it is built: ``python3 -m ferry.pipelines.smoke KIND``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module, metadata

from ..common.errors import FerryError, expected, unknown
from ..common.images import KINDS

DOORS = {
    "slim": ("ferry.faces.component", "ferry.pipelines.preflight"),
    "cpu": (
        "ferry.networks.component",
        "ferry.labelling.component",
        "ferry.pretraining.component",
        "ferry.adaptation.component",
        "ferry.evaluation.component",
        "ferry.registry.component",
        "ferry.source.component",
    ),
}
"""The doors of the stages that run in an image of a kind; those of ``cpu`` run in ``cuda`` too."""


def check_image(kind: str) -> list[str]:
    """Checks this machine for what a stage needs of its image.

    Args:
        kind: ``slim``, ``cpu`` or ``cuda``.

    Returns:
        What was found, a line each.

    Raises:
        UserError: Something is missing, or there that should not be.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    return [check(kind) for check in _CHECKS]


def _user(_: str) -> str:
    if os.getuid() == 0:
        raise expected("user", "another than root", "uid 0", "Set USER in the Dockerfile.")
    with tempfile.NamedTemporaryFile(dir=os.path.expanduser("~")):
        pass
    return f"user {os.getuid()}:{os.getgid()}, home {os.path.expanduser('~')}"


def _commands(_: str) -> str:
    for name in ("sh", "python3", "ferry"):
        if shutil.which(name) is None:
            raise expected(
                "PATH", f"folders with {name}", os.environ.get("PATH", ""), "Kubeflow starts stages with it."
            )
    import_module("kfp.dsl.executor_main")
    return f"kfp {metadata.version('kfp')}, ferry {metadata.version('ferry-fer')}"


def _doors(kind: str) -> str:
    modules = DOORS["slim"] if kind == "slim" else (*DOORS["slim"], *DOORS["cpu"])
    for name in modules:
        import_module(name)
    return f"{len(modules)} doors"


def _torch(kind: str) -> str:
    if kind == "slim":
        there = [name for name in ("torch", "torchvision", "onnxruntime") if name in _distributions()]
        if there:
            raise expected("packages", "without torch in slim", there, "Write the locks anew: python images/lock.py.")
        return "no torch"
    import torch
    import torchvision

    built_for = torch.version.cuda
    if (built_for is None) == (kind == "cuda"):
        fix = "Check the lock of this kind and the index of the wheels."
        raise expected("torch", f"built for {kind}", f"{torch.__version__} for CUDA {built_for}", fix)
    return f"torch {torch.__version__}, torchvision {torchvision.__version__}"


def _distributions() -> set[str]:
    return {(entry.metadata["Name"] or "").lower() for entry in metadata.distributions()}


_CHECKS: tuple[Callable[[str], str], ...] = (_user, _commands, _doors, _torch)


def main(arguments: list[str]) -> int:
    """Prints what was found; returns 2 where something is missing."""
    try:
        print("\n".join(check_image(arguments[0] if arguments else "")))
    except FerryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
