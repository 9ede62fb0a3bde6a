"""The projector keeps single precision under autocast, and passes in training mode can leave no trace."""

from __future__ import annotations

import pytest
import torch
from ferry.pretraining.modules import unchanged_buffers
from torch import nn


class Features(nn.Module):
    """An encoder whose features are the pixels, so that only the projector computes."""

    def forward(self, images):
        return images.flatten(1)[:, :32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_projector_keeps_single_precision_under_autocast(room, dtype):
    network = room.method().network
    network.encoder = Features()
    crops = [torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    whole = network(crops)
    with torch.autocast("cpu", dtype=dtype):
        half = network(crops)
    for one, other in zip(half, whole, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_the_embeddings_of_half_precision_features_are_near_the_whole_ones(room):
    network = room.method().network.eval()
    crops = [torch.randn(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))]
    (whole,) = network(crops)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (half,) = network(crops)
    assert half.dtype == torch.float32
    assert (half * whole).sum(1).min().item() > 0.999
    torch.testing.assert_close(half.norm(dim=1), torch.ones(16), atol=1e-6, rtol=0)


def test_unchanged_buffers_come_back_even_after_an_error(room):
    network = room.method().network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(RuntimeError, match="on purpose"), unchanged_buffers(network):
        network([torch.randn(16, 1, 12, 12)])
        assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())
        raise RuntimeError("on purpose")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
