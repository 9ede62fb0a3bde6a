"""AdaBN: the statistics are those of the whole target, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ferry.adaptation import adabn
from ferry.common.errors import UserError
from ferry.networks import content_digest, normalise
from torch import nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def norms(model):
    return {name: part for name, part in model.named_modules() if isinstance(part, NORMS)}


def close(one, other, tolerance):
    for name, layer in norms(one).items():
        twin = norms(other)[name]
        torch.testing.assert_close(layer.running_mean, twin.running_mean, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(layer.running_var, twin.running_var, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("batch_size", [50, 16, 7, 24, 2])
def test_the_first_layers_statistics_are_numpys_over_the_whole_target(source, pixels, batch_size):
    pixels = pixels.copy()
    pixels[:25] //= 3  # batches differ, so a mean of the batches' variances would be too small
    adapted = adabn(source, pixels, batch_size)
    encoder = source.encoder
    images = normalise(torch.from_numpy(pixels), source.normalisation)
    with torch.no_grad():
        seen = encoder.conv1(encoder.rearrange(images)).double().numpy()
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3), ddof=1)
    np.testing.assert_allclose(adapted.encoder.bn1.running_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(adapted.encoder.bn1.running_var.numpy(), variance, rtol=1e-4)


def test_one_batch_gives_torchs_own_statistics_in_every_layer(source, pixels):
    expected = copy.deepcopy(source)
    for layer in norms(expected).values():
        layer.momentum = 1.0
        layer.train()
    with torch.no_grad():
        expected(normalise(torch.from_numpy(pixels), source.normalisation))
    close(adabn(source, pixels, 64), expected, 1e-5)


def test_the_source_and_its_modes_stay_as_they_were(source, pixels):
    source.encoder.layer3.train()
    state = copy.deepcopy(source.state_dict())
    modes = [part.training for part in source.modules()]
    momenta = [layer.momentum for layer in norms(source).values()]
    adapted = adabn(source, pixels)
    assert all(torch.equal(source.state_dict()[name], state[name]) for name in state)
    assert [part.training for part in source.modules()] == modes
    assert [layer.momentum for layer in norms(adapted).values()] == momenta
    assert not any(part.training for part in adapted.modules())
    assert not any(layer._forward_pre_hooks for layer in norms(adapted).values())


def test_only_statistics_change(source, pixels):
    adapted = adabn(source, pixels)
    for name, tensor in adapted.state_dict().items():
        same = torch.equal(tensor, source.state_dict()[name])
        assert same != ("running" in name), name


def test_the_copy_is_another_model_than_the_source(source, pixels, tmp_path):
    from ferry.networks import load_classifier, load_source, save_model

    save_model(source, tmp_path / "source", method="supervised", lineage={})
    loaded = load_classifier(tmp_path / "source")
    adapted = adabn(loaded, pixels)
    assert loaded.info.digest
    assert type(load_source(tmp_path / "source"))(adapted).digest == content_digest(adapted) != loaded.info.digest


def test_the_order_of_the_images_hardly_matters(source, pixels):
    order = np.random.default_rng(1).permutation(len(pixels))
    one, other = adabn(source, pixels, 25), adabn(source, pixels[order], 25)
    close(one, other, 0.15)
    np.testing.assert_allclose(one.encoder.bn1.running_mean, other.encoder.bn1.running_mean, atol=1e-5)
    np.testing.assert_allclose(one.encoder.bn1.running_var, other.encoder.bn1.running_var, rtol=1e-4)


def test_a_rest_of_one_image_joins_the_batch_before(source, pixels):
    close(adabn(source, pixels[:17], 16), adabn(source, pixels[:17], 17), 1e-6)


def test_all_images_count_also_at_the_end(source, pixels):
    changed = pixels.copy()
    changed[-1] = 255 - changed[-1]
    assert not torch.equal(
        adabn(source, pixels, 16).encoder.bn1.running_mean, adabn(source, changed, 16).encoder.bn1.running_mean
    )


def test_two_images_are_enough_and_one_is_refused(source, pixels):
    adapted = adabn(source, pixels[:2])
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapted.state_dict().values())
    for count in (0, 1):
        with pytest.raises(UserError, match=rf"`target` to be at least 2 images, but got '{count}'"):
            adabn(source, pixels[:count])
    with pytest.raises(UserError, match=r"`batch_size` to be at least 2"):
        adabn(source, pixels, 1)


def test_a_model_without_batch_normalisation_is_refused(source, pixels):
    for parent in list(source.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, NORMS):
                setattr(parent, name, nn.Identity())
    with pytest.raises(UserError, match=r"`source` to be a model with batch normalisation"):
        adabn(source, pixels)


def test_equal_images_give_no_variance_and_finite_outputs(source):
    adapted = adabn(source, np.full((8, 1, 16, 16), 90, np.uint8))
    assert float(adapted.bottleneck[1].running_var.abs().max()) < 1e-6
    assert bool(torch.isfinite(adapted(torch.zeros(2, 1, 16, 16))).all())
