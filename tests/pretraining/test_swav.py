"""SwAV: its loss equals the formula, its queue and prototypes do what the paper says, all state is saved."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from ferry.common.errors import TrainingDiverged, UserError
from ferry.networks import flops
from ferry.pretraining import swapped_prediction_loss
from ferry.pretraining import swav as module
from ferry.pretraining.crops import multi_crop, normalised_crops
from ferry.pretraining.sinkhorn import sinkhorn
from ferry.training import train
from torch.nn.functional import normalize


def cosines(views, samples=20, prototypes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(prototypes, 8, generator=generator), dim=1)
    return [normalize(torch.randn(samples, 8, generator=generator), dim=1) @ centres.T for _ in range(views)]


def codes_of(scores):
    return [sinkhorn(score, 0.05, 3) for score in scores[:2]]


@pytest.mark.parametrize("views", [2, 3, 8])
def test_loss_equals_the_formula_written_out(views):
    scores = cosines(views)
    codes = codes_of(scores)
    total = 0.0
    for a in range(2):
        for v in range(views):
            if v == a:
                continue
            for b in range(20):
                row = [float(value) / 0.1 for value in scores[v][b]]
                normaliser = math.log(sum(math.exp(value) for value in row))
                logs = [value - normaliser for value in row]
                total -= sum(float(q) * p for q, p in zip(codes[a][b], logs, strict=True)) / 20 / (views - 1) / 2
    assert float(swapped_prediction_loss(scores, codes, 0.1)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(("large", "small"), [(2, 0), (2, 6)])
def test_loss_equals_lightlys(large, small):
    from lightly.loss import SwaVLoss

    scores = cosines(large + small, samples=48, prototypes=10)
    expected = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(scores[:large], scores[large:])
    torch.testing.assert_close(swapped_prediction_loss(scores, codes_of(scores), 0.1), expected[0], atol=1e-5, rtol=0)


def test_loss_does_not_change_when_the_assign_views_change_places():
    scores = cosines(4)
    codes = codes_of(scores)
    swapped = swapped_prediction_loss([scores[1], scores[0], *scores[2:]], [codes[1], codes[0]], 0.1)
    torch.testing.assert_close(swapped, swapped_prediction_loss(scores, codes, 0.1))


def test_equal_scores_cost_exactly_ln_k():
    scores = [torch.full((5, 9), 0.3)] * 3
    assert float(swapped_prediction_loss(scores, codes_of(scores), 0.1)) == pytest.approx(math.log(9), abs=1e-6)


def test_gradient_is_prediction_minus_code_and_codes_get_none():
    scores = [score.requires_grad_() for score in cosines(2)]
    codes = codes_of(scores)
    swapped_prediction_loss(scores, codes, 0.1).backward()
    expected = (torch.softmax(scores[0].detach() / 0.1, dim=1) - codes[1]) / 0.1 / 20 / 2
    torch.testing.assert_close(scores[0].grad, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_half_precision_scores_give_a_finite_float32_loss(dtype, factor):
    scores = [(score * factor).to(dtype) for score in cosines(3)]
    loss = swapped_prediction_loss(scores, codes_of(scores), 0.1)
    assert loss.dtype == torch.float32
    assert math.isfinite(float(loss))


@pytest.mark.parametrize("prototypes", [12, 60])
def test_a_fresh_network_starts_near_ln_k(room, prototypes):
    method = room.method(prototypes=prototypes, projector_output=512, epsilon=0.05)
    loss = method.step(room.batch(indices=range(64)))["loss"].item()
    # cosines of random directions have variance 1/D, so the log-normaliser is 1 / (2 tau^2 D) above ln K
    assert loss == pytest.approx(math.log(prototypes) + 100 / 512 / 2, abs=0.15)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_have_their_sizes_and_grey_images_stay_grey(room, channels):
    config = room.settings(crops=(2, 3))
    crops = normalised_crops(room.batch(room.images(channels=channels)), multi_crop(16, config), _usual(channels))
    assert [tuple(crop.shape) for crop in crops] == [(16, channels, 12, 12)] * 2 + [(16, channels, 8, 8)] * 3
    assert all(float(crop.min()) >= -2.0 and float(crop.max()) <= 2.0 for crop in crops)  # (x - 0.5) / 0.25
    method = room.method(channels=channels, crops=(2, 3))
    assert math.isfinite(method.step(room.batch(room.images(channels=channels)))["loss"].item())


def _usual(channels):
    from ferry.networks import Normalisation

    return Normalisation.usual(channels)


def test_the_pass_by_resolution_equals_single_passes(room):
    network = room.method(crops=(2, 2)).network.eval()
    crops = [torch.randn(5, 1, size, size) for size in (12, 12, 8, 8)]
    sizes = []
    hook = network.encoder.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    together = network(crops)
    hook.remove()
    assert sizes == [(10, 1, 12, 12), (10, 1, 8, 8)]  # one pass for each resolution
    for crop, embedding in zip(crops, together, strict=True):
        torch.testing.assert_close(network([crop])[0], embedding, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))


def test_views_do_not_depend_on_how_the_batch_is_divided(room):
    from ferry.training import Batch
    from ferry.training.batches import Pixels

    fetch, rows = Pixels(room.images(), torch.device("cpu")), torch.arange(16)
    crops = multi_crop(16, room.settings())
    whole = normalised_crops(Batch(rows, fetch), crops, _usual(1))
    part = normalised_crops(Batch(rows, fetch, rows=slice(5, 11)), crops, _usual(1))
    for one, other in zip(whole, part, strict=True):
        torch.testing.assert_close(other, one[5:11])


class Problems:
    """Looks over the shoulder of the optimal transport."""

    def __init__(self, monkeypatch):
        self.seen = []
        monkeypatch.setattr(module, "sinkhorn", self._sinkhorn)

    def _sinkhorn(self, scores, *given, **named):
        self.seen.append(scores.clone())
        return sinkhorn(scores, *given, **named)


def test_the_queue_waits_until_it_is_full_and_zeros_are_never_used(room, monkeypatch):
    problems = Problems(monkeypatch)
    method = room.method(queue=32)
    for step in range(4):
        method.step(room.batch(step=step))
    assert [len(problem) for problem in problems.seen] == [16] * 4 + [48] * 4
    assert all(bool((problem.abs().sum(1) > 0).all()) for problem in problems.seen)


def test_the_queue_waits_for_its_first_step(room, monkeypatch):
    problems = Problems(monkeypatch)
    method = room.method(queue=16, queue_start_steps=3)
    for step in range(5):
        method.step(room.batch(step=step))
    assert [len(problem) for problem in problems.seen[::2]] == [16, 16, 16, 32, 32]


def test_the_queue_holds_the_newest_embeddings_first_of_either_view(room):
    method = room.method(queue=40)
    seen = []
    method.network.register_forward_hook(lambda _, __, embeddings: seen.append([one.detach() for one in embeddings]))
    for step in range(4):
        method.step(room.batch(step=step))
        assert method.queue.shape == (2, 40, 8)
    for view in range(2):
        newest_first = torch.cat([embeddings[view] for embeddings in reversed(seen)])
        assert torch.equal(method.queue[view], newest_first[:40])
    assert int(method.queue_filled) == 40
    assert not method.queue.requires_grad


def test_a_queue_smaller_than_the_batch_and_no_queue_work(room):
    method = room.method(queue=5, prototypes=8)
    for step in range(2):
        method.step(room.batch(step=step))
    assert method.queue_in_use(2)
    bare = room.method(queue=0)
    assert math.isfinite(bare.step(room.batch())["loss"].item())
    assert not bare.queue_in_use(10**6)


@pytest.mark.slow
def test_the_loss_does_not_jump_when_the_queue_starts(room):
    """Two trainings that are one up to step 12; from there the first uses its queue."""
    curves = []
    for start in (12, 10**6):
        changes = {"queue": 32, "queue_start_steps": start, "epochs": 5, "projector_output": 32}
        loop = dataclasses.replace(room.settings(**changes).loop(), log_every_steps=1)
        history = train(room.method(**changes), room.pictures(64), loop).history
        curves.append([record["loss"] for record in history if record["kind"] == "step"])
    with_queue, without = np.array(curves)
    assert len(with_queue) == 20
    assert (with_queue[:12] == without[:12]).all()
    assert with_queue[12] != without[12]
    assert np.abs(with_queue - without).max() < 0.1  # 0.03 measured; 0.4 with codes of other images


def test_the_queue_only_helps_to_find_the_codes_of_the_batch(room):
    method = room.method(queue=16)
    method.step(room.batch())
    loss = method.step(room.batch(step=1))["loss"]
    assert method.queue_in_use(1)
    loss.backward()
    assert method.network.encoder.conv1.weight.grad.abs().sum() > 0


def test_in_evaluation_mode_the_queue_does_not_move(room):
    method = room.method()
    method.step(room.batch())
    before = method.queue.clone()
    method.eval()
    method.step(room.batch(step=1))
    assert torch.equal(method.queue, before)


def test_prototypes_have_no_bias_and_cosines_as_scores(room):
    method = room.method(freeze_prototypes_steps=0)
    assert [name for name, _ in method.prototypes.named_parameters()] == ["weight"]
    embedding = normalize(torch.randn(4, 8), dim=1)
    scores = method.prototypes(embedding)
    assert scores.abs().max().item() <= 1.0 + 1e-6
    torch.testing.assert_close(method.prototypes(-embedding), -scores)


def test_prototypes_that_learn_stay_on_the_sphere(room):
    method = room.method(freeze_prototypes_steps=0)
    before = method.prototypes.weight.detach().clone()
    lengths = []
    original = method.after_step

    def spy(batch):
        original(batch)
        lengths.append(method.prototypes.weight.detach().norm(dim=1))

    method.after_step = spy
    train(method, room.images(), room.settings(learning_rate=0.5).loop())
    assert len(lengths) == 8
    for length in lengths:
        torch.testing.assert_close(length, torch.ones(12))
    assert not torch.allclose(method.prototypes.weight, before, atol=1e-2)


def test_prototypes_frozen_for_ever_are_no_parameters_and_do_not_move(room):
    method = room.method(freeze_prototypes_steps=-1)
    before = method.prototypes.weight.clone()
    assert list(method.prototypes.parameters()) == []
    train(method, room.images(), dataclasses.replace(room.settings().loop(), weight_decay=0.1))
    assert torch.equal(method.prototypes.weight, before)


@pytest.mark.parametrize("optimiser", ["sgd", "lars"])
def test_prototypes_frozen_for_some_steps_move_exactly_from_then_on(room, optimiser):
    method = room.method(freeze_prototypes_steps=3)
    first, moved, gradients = method.prototypes.weight.detach().clone(), [], []
    original = method.after_step

    def spy(batch):
        original(batch)
        gradient = method.prototypes.weight.grad
        gradients.append(0.0 if gradient is None else float(gradient.abs().sum()))
        moved.append(not torch.equal(method.prototypes.weight.detach(), first))

    method.after_step = spy
    loop = room.settings(epochs=1, optimiser=optimiser).loop()
    train(method, room.images(96), dataclasses.replace(loop, weight_decay=0.1))
    assert moved == [False] * 3 + [True] * 3
    assert gradients[:3] == [0.0] * 3
    assert all(value > 0 for value in gradients[3:])


def test_state_holds_queue_and_prototypes_and_comes_back(room):
    method = room.method()
    for step in range(3):
        method.step(room.batch(step=step))
    state = method.state_dict()
    assert {"queue", "queue_filled", "prototypes.weight"} <= set(state)
    again = room.method(seed=9)
    again.load_state_dict(state)
    one, other = method.step(room.batch(step=3)), again.step(room.batch(step=3))
    assert {name: value.item() for name, value in one.items()} == {name: value.item() for name, value in other.items()}


def test_autocast_to_half_precision_stays_finite_with_codes_in_float32(room, monkeypatch):
    problems = Problems(monkeypatch)
    method = room.method()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scalars = method.step(room.batch())
    assert math.isfinite(scalars["loss"].item())
    assert {problem.dtype for problem in problems.seen} == {torch.float32}


def test_broken_weights_are_named_as_a_divergence(room):
    method = room.method()
    with torch.no_grad():
        method.network.encoder.conv1.weight.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"Step 5 of pretraining: Expected `scores` to be finite.*learning rate"):
        method.step(room.batch(step=4))


def test_the_description_names_what_changes_the_result_and_nothing_else(room):
    description = room.method().describe()
    assert json.loads(json.dumps(description))["crops"][1]["count"] == 1
    assert description == room.method(precision="bf16").describe()
    assert description != room.method(temperature=0.2).describe()
    assert description["architecture"]["width"] == 4


def test_a_checkpoint_of_other_settings_is_refused(room, tmp_path):
    loop = dataclasses.replace(room.settings().loop(), checkpoint_seconds=0.0)
    train(room.method(), room.images(), loop, checkpoint=tmp_path / "c.pt")
    with pytest.raises(UserError, match="epsilon"):
        train(room.method(epsilon=0.05), room.images(), loop, checkpoint=tmp_path / "c.pt")


def test_operations_count_every_crop(room):
    method = room.method(crops=(2, 6))
    architecture = method.network.encoder.architecture
    # both crops are below the smallest size that can be counted, 16, so they are scaled by their area
    body = flops(architecture, training=True)
    dense = 6 * (32 * 16 + 16 * 8 + 8 * 12)
    expected = 2 * (body * (12 / 16) ** 2 + dense) + 6 * (body * (8 / 16) ** 2 + dense)
    assert method.flops_per_image == pytest.approx(expected)
    result = train(room.method(), room.images(224), room.settings(epochs=1).loop())
    assert result.estimate.tflop == pytest.approx(room.method().flops_per_image * result.estimate.images / 1e12)


def test_the_count_agrees_with_torchs_own_counter():
    from ferry.networks import Architecture, build_encoder
    from ferry.pretraining import PretrainingConfig, make_method
    from ferry.training import flops_of, make_batch

    encoder = build_encoder(Architecture(name="resnet10", width=4, input_size=48), 0)
    config = PretrainingConfig(prototypes=20, queue=0, crops=(2, 2), batch_size=4)
    method = make_method(encoder, config, 4, 48)
    crops = normalised_crops(make_batch(np.zeros((4, 1, 48, 48), np.uint8)), method.crops, method.normalisation)
    work = lambda: sum(method.prototypes(one).sum() for one in method.network(crops)).backward()  # noqa: E731
    counted = flops_of(work) / 4
    assert method.flops_per_image == pytest.approx(counted, rel=0.03)
