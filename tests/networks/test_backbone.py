from __future__ import annotations

import pytest
import torch
import torchvision
from ferry.common.errors import UserError
from ferry.networks import Architecture, Encoder, build_encoder

from .conftest import small


def on_meta(architecture):
    with torch.device("meta"):
        return Encoder(architecture)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_forward_equals_torchvision_with_the_same_state_dict(name):
    torch.manual_seed(0)
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None)
    theirs = theirs.to_empty(device="cpu").eval()
    theirs.fc = torch.nn.Identity()
    state = theirs.state_dict()
    for value in state.values():
        if value.ndim == 4:
            value.normal_(0, 0.05)
        elif value.is_floating_point():
            value.uniform_(0.5, 1.5)
    ours = on_meta(Architecture(name, stem="imagenet", channels=3, input_size=64)).eval()
    ours.load_state_dict(state, assign=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = ours(images)
        assert features.std() > 0
        assert torch.equal(features, theirs(images))


@pytest.mark.parametrize(("stem", "edge"), [("imagenet", 5), ("clup", 20), ("cifar", 20), ("space_to_depth", 10)])
@pytest.mark.parametrize("channels", [1, 3])
def test_stems_give_the_known_map_sizes_at_160_pixels(stem, edge, channels):
    encoder = on_meta(small(stem=stem, channels=channels, input_size=160)).eval()
    images = torch.empty(1, channels, 160, 160, device="meta")
    assert encoder.feature_map(images).shape == (1, 32, edge, edge)
    assert encoder(images).shape == (1, encoder.feature_size)


def test_clup_stem_has_the_kernel_of_imagenet_so_that_only_the_stored_stem_tells_them_apart():
    one, other = (build_encoder(small(stem=stem), 0).eval() for stem in ("imagenet", "clup"))
    other.load_state_dict(one.state_dict())
    images = torch.randn(2, 1, 16, 16)
    assert not torch.allclose(one(images), other(images))


def test_space_to_depth_keeps_every_pixel():
    encoder = build_encoder(small(), 0)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert encoder.rearrange(image)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    with pytest.raises(UserError, match=r"image size.*even.*\(17, 16\)"):
        encoder(torch.zeros(1, 1, 17, 16))


def test_small_network_has_the_size_that_was_measured():
    encoder = build_encoder(Architecture(), 0)
    assert 1.1e6 < sum(weight.numel() for weight in encoder.parameters()) < 1.3e6


@pytest.mark.parametrize("stem", ["imagenet", "cifar", "clup", "space_to_depth"])
def test_smallest_input_works_in_training_mode(stem):
    encoder = build_encoder(small(stem=stem), 0).train()
    assert torch.isfinite(encoder(torch.randn(2, 1, 16, 16))).all()


def test_seed_alone_fixes_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_encoder(small(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    later = build_encoder(small(), 1).state_dict()
    assert all(torch.equal(one[key], same[key]) and torch.equal(one[key], later[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("seed", [-1, 1.5, None])
def test_wrong_seed_is_refused(seed):
    with pytest.raises(UserError, match="seed"):
        build_encoder(small(), seed)
