"""Optimisers by name, and LARS, which torch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .config import LoopConfig


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum (You et al. 2017, eq. 6; "LARC" in NVIDIA's apex).

    For a weight p with gradient g and decay d: ``q = c |p| / (|g| + d |p| + e)``, with `clip` ``q = min(q / lr, 1)``,
    then SGD with momentum on ``q (g + d p)``. Where |p| or |g| is zero, q is 1. Parameters with one dimension (biases,
    batch norm) get plain SGD steps unless `exclude_one_dimensional` is false.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: L2 penalty, inside the trust ratio.
        coefficient: Trust coefficient c.
        clip: Whether q / lr is limited to 1, so that LARS never raises the learning rate above ``lr``.
        exclude_one_dimensional: Whether parameters with one dimension or none are left as they are.
        epsilon: Guard e against division by zero.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        coefficient: float = 0.001,
        clip: bool = False,
        exclude_one_dimensional: bool = True,
        epsilon: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "coefficient": coefficient,
            "clip": clip,
            "exclude_one_dimensional": exclude_one_dimensional,
            "epsilon": epsilon,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Does one update; `closure` recomputes the loss, as in torch's own optimisers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        update = parameter.grad.add(parameter, alpha=decay) if decay else parameter.grad.clone()  # type: ignore[union-attr]
        if parameter.ndim > 1 or not group["exclude_one_dimensional"]:
            update.mul_(_trust_ratio(parameter, group))
        if group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = update.clone()
            else:
                state["momentum_buffer"].mul_(group["momentum"]).add_(update)
            update = state["momentum_buffer"]
        parameter.add_(update, alpha=-group["lr"])


def _trust_ratio(parameter: Tensor, group: dict[str, Any]) -> Tensor:
    weight, gradient = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(parameter.grad)
    ratio = group["coefficient"] * weight / (gradient + group["weight_decay"] * weight + group["epsilon"])
    if group["clip"]:
        ratio = (ratio / group["lr"]).clamp(max=1.0) if group["lr"] > 0 else torch.ones_like(ratio)
    return torch.where((weight > 0) & (gradient > 0), ratio, torch.ones_like(ratio))


def make_optimiser(groups: list[dict[str, Any]], config: LoopConfig) -> torch.optim.Optimizer:
    """Makes the optimiser that the settings name.

    Args:
        groups: Parameter groups; ``lr_scale`` in a group multiplies the learning rate of each step.
        config: The settings.
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    if config.optimiser == "lars":
        return LARS(groups, rate, config.momentum, decay, config.lars_coefficient, config.lars_clip)
    return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, weight_decay=decay, nesterov=config.nesterov)


def set_learning_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the rate of a step in every group, times the group's ``lr_scale``."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)
