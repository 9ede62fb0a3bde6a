"""Fine-tuning on pseudo-labels: where it starts, what it refuses, and that it learns what it is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ferry.adaptation import FinetuningConfig, adabn, fine_tune, start_network
from ferry.common.errors import UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import build_encoder, flops

from .conftest import architecture


def start(how, source=None, encoder=None, pixels=None, classes=EXPRESSIONS, **changes):
    config = FinetuningConfig(start=how, **changes)
    return start_network(config, source=source, encoder=encoder, target=pixels, classes=classes)


def same(one, other):
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def encoder():
    return build_encoder(architecture(width=8), 5)


def test_a_start_from_the_source_is_its_whole_copy(source):
    network = start("source", source)
    assert same(network, source)
    assert network.head is not source.head
    with torch.no_grad():
        next(network.parameters()).zero_()
    assert not same(network, source)


def test_a_start_from_adabn_has_the_targets_statistics(source, pixels):
    assert same(start("adabn", source, pixels=pixels), adabn(source, pixels))


def test_a_pretrained_start_is_the_encoder_with_a_fresh_plain_head(source, encoder):
    network = start("pretrained", source, encoder)
    assert same(network.encoder, encoder)
    assert network.encoder is not encoder
    assert network.bottleneck is None
    assert network.head.weight.shape == (7, 64)
    assert not torch.equal(network.head.weight, start("pretrained", source, encoder, seed=1).head.weight)
    assert same(network, start("pretrained", None, encoder))  # a foreign source is no obstacle


def test_a_start_from_scratch_has_the_encoders_architecture_and_fresh_weights(source, encoder):
    network = start("scratch", source, encoder)
    assert network.encoder.architecture == encoder.architecture
    assert not same(network.encoder, encoder)
    of_source = start("scratch", source)
    assert of_source.encoder.architecture == source.encoder.architecture
    assert of_source.bottleneck is None


def test_a_start_from_scratch_without_any_model_takes_the_small_network(pixels):
    network = start("scratch", pixels=pixels)
    assert (network.architecture.name, network.architecture.input_size) == ("resnet10", 16)
    assert network.classes == EXPRESSIONS


@pytest.mark.parametrize("how", ["source", "adabn"])
def test_a_foreign_source_has_no_weights_to_start_from(how, pixels):
    with pytest.raises(UserError, match=rf"`finetuning_start` to be pretrained or scratch.*got '{how}'.*no weights"):
        start(how, pixels=pixels)


def test_a_pretrained_start_needs_a_pretraining(source):
    with pytest.raises(UserError, match=r"`finetuning_start`.*got 'pretrained'\. Choose a pretraining"):
        start("pretrained", source)


@pytest.mark.parametrize("how", ["source", "adabn"])
def test_other_classes_than_the_sources_are_refused(source, pixels, how):
    with pytest.raises(UserError, match=r"`classes` to be those of the source model, anger.*labels that this source"):
        start(how, source, pixels=pixels, classes=EXPRESSIONS[::-1])
    with pytest.raises(UserError, match="`classes`"):
        start(how, source, pixels=pixels, classes=("smile", "frown"))


def striped(count=48):
    """Two kinds of pictures that anything can tell apart."""
    pictures = np.zeros((count, 1, 16, 16), np.uint8)
    pictures[::2, :, :, ::4] = 255
    pictures[1::2, :, ::4, :] = 255
    return pictures, np.arange(count) % 2


@pytest.mark.parametrize("soft", [False, True])
def test_it_learns_the_labels_that_it_is_given(encoder, soft):
    pictures, labels = striped()
    network = start("pretrained", encoder=encoder)
    given = np.eye(7)[labels] * 0.8 + 0.2 / 7 if soft else labels
    result = fine_tune(network, pictures, given, FinetuningConfig(steps=40, batch_size=16, precision="fp32"))
    assert result.steps == 39  # 13 epochs of 3 steps, the nearest to 40
    images = (torch.from_numpy(pictures).float() / 255 - 0.5) / 0.25
    assert (network.eval()(images).argmax(1).numpy() == labels).mean() > 0.9
    assert result.estimate.tflop == pytest.approx(
        flops(network.architecture, training=True) * result.estimate.images / 1e12
    )


def test_the_published_settings_can_be_given(encoder, monkeypatch):
    import ferry.training.supervised as module

    seen = {}
    monkeypatch.setattr(module, "train", lambda method, pixels, loop, **_: seen.update(method=method, loop=loop))
    pictures, labels = striped(80)
    fine_tune(start("pretrained", encoder=encoder), pictures, labels, FinetuningConfig("pretrained", 50, 800, 32, 0.1))
    loop = seen["loop"]
    assert (loop.epochs, loop.batch_size, loop.learning_rate) == (50, 32, 0.1)
    assert (loop.optimiser, loop.momentum, loop.nesterov, loop.weight_decay) == ("sgd", 0.9, True, 5e-4)
    assert (loop.schedule, loop.warmup_epochs, loop.final_learning_rate) == ("cosine", 0.0, 0.0)
    assert seen["method"].mixup == 0.2
    assert seen["method"].label_smoothing == 0.0


def test_no_momentum_is_plain_gradient_descent(encoder):
    pictures, labels = striped(8)
    config = FinetuningConfig(epochs=1, batch_size=4, momentum=0.0, precision="fp32")
    assert fine_tune(start("pretrained", encoder=encoder), pictures, labels, config).steps == 2


def test_fewer_images_than_a_batch_still_get_the_wanted_number_of_steps(encoder):
    pictures, labels = striped(6)
    config = FinetuningConfig(steps=5, batch_size=64, precision="fp32")
    assert fine_tune(start("pretrained", encoder=encoder), pictures, labels, config).steps == 5


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (0, [], r"`labels` to be at least 2 kept faces, but got 0\. Raise labelling_keep"),
        (1, [0], r"`labels` to be at least 2 kept faces, but got 1"),
        (4, [3, 3, 3, 3], r"`labels` to be of at least two classes, but got 'only happiness'.*score=confidence"),
        (4, [0, 1, 2, 7], r"`labels` to be in the range 0 to 6"),
        (4, [0, 1], r"`labels` to be whole numbers of shape \[4\]"),
    ],
)
def test_labels_that_cannot_train_are_refused(encoder, count, labels, message):
    with pytest.raises(UserError, match=message):
        fine_tune(start("pretrained", encoder=encoder), striped()[0][:count], np.array(labels, int), FinetuningConfig())


def test_the_rules_for_zero():
    assert FinetuningConfig(start="pretrained").peak_learning_rate == 0.02
    assert FinetuningConfig(start="scratch").peak_learning_rate == 0.05
    assert FinetuningConfig(start="adabn").peak_learning_rate == 0.005
    assert FinetuningConfig(start="adabn", learning_rate=0.1).peak_learning_rate == 0.1
    assert FinetuningConfig(steps=800, batch_size=64).epochs_for(6400) == 8
    assert FinetuningConfig(steps=800, batch_size=64).epochs_for(20) == 800
    assert FinetuningConfig(epochs=3).epochs_for(20) == 3
    assert FinetuningConfig(steps=10).epochs_for(10**6) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "pretraind"}, r"`finetuning_start`.*Did you mean 'pretrained'"),
        ({"precision": "fp31"}, r"`finetuning_precision`.*Did you mean 'fp32'"),
        ({"epochs": -1}, r"`finetuning_epochs` to be zero or more, but got -1"),
        ({"steps": 0}, r"`finetuning_steps` to be at least 1, but got 0"),
        ({"batch_size": 1}, r"`finetuning_batch_size` to be at least 2, but got 1"),
        ({"learning_rate": -0.1}, r"`finetuning_learning_rate` to be zero or positive, but got -0\.1"),
        ({"mixup": -0.1}, r"`finetuning_mixup` to be zero or positive"),
        ({"label_smoothing": 1.0}, r"`finetuning_label_smoothing` to be at least 0 and below 1"),
        ({"momentum": 1.0}, r"`finetuning_momentum` to be at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        FinetuningConfig(**changes)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16", "measure"])
def test_every_precision_of_the_loop_can_be_asked_for(precision):
    assert FinetuningConfig(precision=precision).precision == precision
