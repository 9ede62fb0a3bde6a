"""Several processes as one: every helper also works, as a no-op, without a process group.

The loop weighs each process's loss by its share of the global batch and sums the gradients. So the collectives here
pass gradients on as sums: a loss on globally reduced values has the gradient that one process would have computed.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..common.errors import RetryableError, expected


def start(device: torch.device) -> None:
    """Joins the process group that torchrun (or a Kubeflow TrainJob) describes in the environment, if any.

    Args:
        device: NCCL is used for GPUs, gloo for CPUs.

    Raises:
        UserError: ``WORLD_SIZE`` is above 1 but the address of the group is missing.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return
    for variable in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if variable not in os.environ:
            fix = "Start with `torchrun --nproc-per-node N`, or unset WORLD_SIZE."
            raise expected(variable, "set, because WORLD_SIZE is above 1", "", fix)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_stop)


def _stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Returns this process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        result = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        own = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.zeros_like(own) for _ in range(world_size())]
        dist.all_gather(counts, own)
        sizes = [int(count) for count in counts]
        padded = tensor.new_zeros((max(sizes), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        ctx.start, ctx.rows = sum(sizes[: rank()]), len(tensor)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Returns the sum of `tensor` over all processes, with gradients.

    Args:
        tensor: Same shape and dtype in every process.
    """
    return _AllReduceSum.apply(tensor) if world_size() > 1 else tensor  # type: ignore[no-any-return]


def all_gather_rows(tensor: Tensor) -> Tensor:
    """Returns the rows of all processes, in the order of their ranks, with gradients.

    Args:
        tensor: [b, ...]; b may differ between processes and may be 0.

    Returns:
        [sum of b, ...], in a training step with one part per batch the rows of the global batch in order.
    """
    return _AllGatherRows.apply(tensor) if world_size() > 1 else tensor  # type: ignore[no-any-return]


def sum_over_processes(values: list[float], device: torch.device) -> list[float]:
    """Returns the sums of plain numbers over all processes."""
    if world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def sum_gradients(parameters: list[nn.Parameter], present: list[bool]) -> None:
    """Replaces gradients by their sums over all processes.

    Args:
        parameters: All that are trained, in the same order everywhere.
        present: Whether any process has a gradient for the parameter; where none has, it stays None.
    """
    if world_size() == 1:
        return
    buckets: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter, wanted in zip(parameters, present, strict=True):
        if wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            buckets.setdefault((parameter.grad.dtype, parameter.device), []).append(parameter)
    for bucket in buckets.values():
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket])
        dist.all_reduce(flat)
        parts = flat.split([parameter.numel() for parameter in bucket])
        for parameter, part in zip(bucket, parts, strict=True):
            _gradient(parameter).copy_(part.view(parameter.shape))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter without a gradient was put into a bucket")
    return parameter.grad


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Gives every process the parameters and buffers of process 0."""
    broadcast_tensors([*module.parameters(), *module.buffers()])


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Gives every process the values of process 0, in place.

    Args:
        tensors: In the same order, and with the same shapes and dtypes, in every process.
    """
    if world_size() > 1:
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def broadcast_bytes(content: bytes | None, device: torch.device) -> bytes:
    """Gives every process the bytes of process 0.

    Args:
        content: In process 0 the bytes, or None to tell the others that it failed; ignored elsewhere.
        device: Device of the training.

    Raises:
        RetryableError: In the other processes, when process 0 passed None.
    """
    if world_size() == 1:
        return content or b""
    size = torch.tensor([-1 if content is None else len(content)], device=device)
    dist.broadcast(size, src=0)
    if int(size) < 0:
        if rank() == 0:
            return b""
        raise RetryableError("Process 0 could not go on; its own message says why. Run the same command again.")
    data = torch.empty(int(size), dtype=torch.uint8, device=device)
    if rank() == 0 and content:
        data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    if len(data):
        dist.broadcast(data, src=0)
    return data.cpu().numpy().tobytes()


class _Synchronised(_BatchNorm):
    """Batch norm over the rows of all processes, for devices on which torch's own does not run."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        over = [dimension for dimension in range(values.ndim) if dimension != 1]
        shape = [1, -1] + [1] * (values.ndim - 2)
        count = all_reduce_sum(torch.tensor(float(values.numel() // values.shape[1]), device=values.device))
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {input.shape}")
        mean = all_reduce_sum(values.sum(over)) / count
        centred = values - mean.view(shape)
        variance = all_reduce_sum(centred.square().sum(over)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        result = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d):
    pass


class _Synchronised2d(_Synchronised, nn.BatchNorm2d):
    pass


class _Synchronised3d(_Synchronised, nn.BatchNorm3d):
    pass


class _Cuda1d(nn.SyncBatchNorm, nn.BatchNorm1d):
    pass


class _Cuda2d(nn.SyncBatchNorm, nn.BatchNorm2d):
    pass


class _Cuda3d(nn.SyncBatchNorm, nn.BatchNorm3d):
    pass


_ON_CPU: dict[type, type] = {
    nn.BatchNorm1d: _Synchronised1d,
    nn.BatchNorm2d: _Synchronised2d,
    nn.BatchNorm3d: _Synchronised3d,
}
_ON_CUDA: dict[type, type] = {nn.BatchNorm1d: _Cuda1d, nn.BatchNorm2d: _Cuda2d, nn.BatchNorm3d: _Cuda3d}
_PLAIN: dict[type, type] = {made: plain for table in (_ON_CPU, _ON_CUDA) for plain, made in table.items()}


def convert_sync_batchnorm(module: nn.Module, device: torch.device) -> None:
    """Makes every batch norm in `module` use the rows of all processes: torch's own on CUDA, Ferry's elsewhere.

    Works in place: modules stay the same objects, with the same names, state and ``isinstance`` relations, so
    references to them stay good and :func:`revert_sync_batchnorm` can undo it.
    """
    table = _ON_CUDA if device.type == "cuda" else _ON_CPU
    for part in module.modules():
        if type(part) in table:
            part.__class__ = table[type(part)]
            part.process_group = None  # type: ignore[assignment]


def revert_sync_batchnorm(module: nn.Module) -> None:
    """Makes batch norms plain again."""
    for part in module.modules():
        if type(part) in _PLAIN:
            part.__class__ = _PLAIN[type(part)]
            del part.process_group


def trained_parameters(groups: Iterable[dict[str, Any]]) -> list[nn.Parameter]:
    """Returns the parameters of an optimiser's groups, in order."""
    return [parameter for group in groups for parameter in group["params"]]
