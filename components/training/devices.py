"""Where a training runs and in which precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ..common.errors import expected

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(word: str) -> torch.device:
    """Returns the device that a setting means.

    Args:
        word: ``auto`` (the process's GPU if there is one, else the CPU) or a name that torch knows. A plain ``cuda``
            means the GPU with the number in ``LOCAL_RANK``.

    Raises:
        UserError: torch does not know the device or it is not there.
    """
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
    except RuntimeError:
        raise expected("device", "auto, cpu, cuda or cuda:N", word, "Pass device=auto.") from None
    if device.type == "cuda":
        return _gpu(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise expected("device", "available on this machine", word, "Pass device=auto.")
    if device.type not in ("cpu", "mps"):
        raise expected("device", "auto, cpu, cuda or cuda:N", word, "Pass device=auto.")
    return device


def _gpu(device: torch.device) -> torch.device:
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= count:
        fix = "Pass device=auto, or check the driver and the pod's GPU limit."
        raise expected("device", "available on this machine", f"cuda:{index} (of {count} GPUs)", fix)
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


@lru_cache(maxsize=1)
def has_matrix_unit() -> bool:
    """Tells whether the CPU has AMX tiles for bfloat16, on which bf16 is faster than fp32."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False


def precision_rule(device: torch.device) -> str:
    """Returns what ``precision=auto`` means on a device; always the same on one machine.

    CUDA: bf16 where the GPU computes in it, else fp16. CPU: bf16 with AMX, else fp32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and has_matrix_unit() else "fp32"


def possible_precisions(device: torch.device) -> tuple[str, ...]:
    """Returns the precisions that a device can train in."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("fp32", "bf16", "fp16") if supported else ("fp32", "fp16")
    return ("fp32", "bf16") if device.type == "cpu" else ("fp32",)


def check_precision(word: str, device: torch.device) -> str:
    """Returns `word` if the device can train in it.

    Raises:
        UserError: It cannot.
    """
    possible = possible_precisions(device)
    if word not in possible:
        raise expected("precision", f"one of {', '.join(possible)} on {device.type}", word, "Pass precision=auto.")
    return word


def channels_last_rule(device: torch.device, precision: str) -> bool:
    """Returns what ``channels_last=None`` means: on a GPU yes, on a CPU with bf16."""
    return device.type == "cuda" or (device.type == "cpu" and precision == "bf16")


def autocast_for(device: torch.device, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """Returns what makes the context of a step: torch's autocast for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return nullcontext
    return partial(torch.autocast, device.type, dtype=_DTYPES[precision])
