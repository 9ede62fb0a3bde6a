from __future__ import annotations

import pytest
import torch
from ferry.common.errors import UserError
from ferry.networks import Normalisation, build_classifier, build_encoder, normalise
from torchvision.transforms.v2 import functional as reference

from .conftest import small

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(("bottleneck", "size"), [(0, 32), (8, 8)])
@pytest.mark.parametrize("head", ["linear", "weight_norm"])
def test_shapes_and_that_the_head_sees_the_features(bottleneck, size, head):
    model = build_classifier(small(bottleneck=bottleneck, head=head), NAMES).eval()
    images = torch.randn(2, 1, 16, 16)
    logits, features = model.forward_features(images)
    assert logits.shape == (2, 3)
    assert features.shape == (2, size)
    assert torch.equal(model.head(features), logits)
    assert torch.equal(model(images), logits)
    assert torch.equal(model.features(images), features)


def test_weight_normalised_head_is_magnitude_times_direction():
    head = build_classifier(small(head="weight_norm"), NAMES).head
    with torch.no_grad():
        head.parametrizations.weight.original0.fill_(2.0)
    assert torch.allclose(head.weight.norm(dim=1), torch.full((3,), 2.0))
    assert head.bias.shape == (3,)


def test_bottleneck_has_no_relu():
    model = build_classifier(small(bottleneck=8), NAMES).train()
    assert (model.features(torch.randn(8, 1, 16, 16)) < 0).any()


def test_seed_fixes_all_weights_and_the_encoder_is_that_of_build_encoder():
    architecture = small(bottleneck=8, head="weight_norm")
    before = torch.get_rng_state()
    one, same, other = (build_classifier(architecture, NAMES, seed=seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(
        one["head.parametrizations.weight.original1"], other["head.parametrizations.weight.original1"]
    )
    encoder = build_encoder(architecture, 4).state_dict()
    assert all(torch.equal(one[f"encoder.{key}"], value) for key, value in encoder.items())


def test_given_encoder_is_copied_and_brings_its_normalisation():
    encoder = build_encoder(small(input_size=24), 1, Normalisation((0.4,), (0.2,)))
    model = build_classifier(small(), NAMES, encoder=encoder)
    assert model.normalisation == Normalisation((0.4,), (0.2,))
    assert torch.equal(model.encoder.conv1.weight, encoder.conv1.weight)
    with torch.no_grad():
        model.encoder.conv1.weight.zero_()
    assert encoder.conv1.weight.abs().sum() > 0
    with pytest.raises(UserError, match="encoder"):
        build_classifier(small(stem="cifar"), NAMES, encoder=encoder)
    with pytest.raises(UserError, match="normalisation"):
        build_classifier(small(), NAMES, Normalisation(), encoder=encoder)


@pytest.mark.parametrize("normalisation", [Normalisation.usual(1), Normalisation.imagenet()])
def test_normalise_equals_torchvision(normalisation):
    channels = len(normalisation.mean)
    pixels = torch.randint(0, 256, (2, channels, 5, 4), dtype=torch.uint8)
    expected = reference.normalize(pixels.float() / 255, list(normalisation.mean), list(normalisation.std))
    ours = normalise(pixels, normalisation)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert normalise(pixels[:0], normalisation).shape == (0, channels, 5, 4)


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, dtype=torch.uint8)],
)
def test_normalise_refuses_wrong_pixels(pixels):
    with pytest.raises(UserError, match="pixels"):
        normalise(pixels, Normalisation())
