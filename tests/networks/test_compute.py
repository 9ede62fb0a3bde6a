from __future__ import annotations

import pytest
import torch
from ferry.common.errors import UserError
from ferry.networks import Architecture, build_classifier, build_encoder, describe, flops

from .conftest import small


@pytest.mark.parametrize(
    ("stem", "size", "gmac"),
    [
        ("imagenet", 48, 0.098),
        ("imagenet", 160, 0.925),
        ("clup", 160, 13.90),
        ("cifar", 160, 13.89),
    ],
)
def test_resnet18_costs_what_the_published_table_says(stem, size, gmac):
    count = flops(Architecture("resnet18", stem=stem, channels=3, input_size=size))
    assert count / 2e9 == pytest.approx(gmac, rel=4e-3)


def test_count_equals_hand_arithmetic_for_the_small_network():
    # Multiply-accumulates at 16 px, width 4: the stem sees 4 channels on an 8x8 map, the stages 8, 4, 2, 1.
    macs = 64 * 9 * 4 * 4
    macs += 64 * 9 * (4 * 4 + 4 * 4)
    macs += 16 * (9 * (4 * 8 + 8 * 8) + 4 * 8)
    macs += 4 * (9 * (8 * 16 + 16 * 16) + 8 * 16)
    macs += 1 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    macs += 32 * 7
    assert flops(small()) == 2 * macs


def test_cost_scales_with_the_batch_and_training_costs_about_three_times_as_much():
    one = flops(small(bottleneck=8))
    assert flops(small(bottleneck=8), batch=6) == 6 * one
    assert 2.5 < flops(small(bottleneck=8), training=True) / one <= 3
    with pytest.raises(UserError, match="batch"):
        flops(small(), batch=0)


def test_counting_leaves_the_global_generator_alone():
    flops.cache_clear()
    before = torch.get_rng_state()
    flops(small(), training=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_description_counts_weights_and_says_what_is_trained():
    model = build_classifier(small(), ("a", "b"))
    model.encoder.requires_grad_(False)
    description = describe(model)
    assert description.parameters == sum(weight.numel() for weight in model.parameters())
    assert description.trainable == 32 * 2 + 2
    assert description.flop_per_image == flops(small())
    assert all(part in str(description) for part in ("resnet10", "space_to_depth", "16x16x1", "GFLOP", "a, b"))
    assert describe(build_encoder(small(), 0)).classes is None
