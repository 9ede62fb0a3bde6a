"""The loop against a hand-written one, its hooks, records and refusals."""

import json
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import ferry.training
import numpy as np
import pytest
import torch
from ferry.common.errors import TrainingDiverged, UserError
from ferry.common.parameters import from_mapping
from ferry.training import LoopConfig, Method, Sampler, estimate, flops_of, make_batch, make_context, train
from ferry.training.batches import permutation, seed_for, share
from ferry.training.method import split_by_dimension
from torch import nn
from torch.nn import functional

toy = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("toy.py"))))
PIXELS = toy.toy_pixels(40)


class Linear(Method):
    """Softmax regression on fixed labels: no batch norm, no randomness."""

    def __init__(self, images=40):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.second = nn.Linear(64, 5), nn.Linear(5, 3)
        self.register_buffer("labels", torch.arange(images) % 3)

    def loss(self, pixels, labels):
        hidden = self.first(pixels.flatten(1).to(self.first.weight.dtype) / 255 - 0.5).tanh()
        return functional.cross_entropy(self.second(hidden), labels)

    def step(self, batch):
        return {"loss": self.loss(batch.pixels, self.labels[batch.indices])}


def config(**changes):
    values = {"epochs": 2, "batch_size": 16, "learning_rate": 0.2, "schedule": "constant", "precision": "fp32"}
    return LoopConfig(**{**values, **changes})


def weights(method):
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def by_hand(settings, make_optimiser):
    """The plain loop that everybody writes."""
    method = Linear()
    optimiser = make_optimiser(method)
    losses = []
    for epoch in range(settings.epochs):
        order = permutation(40, settings.seed, epoch)
        for rows in order.split(settings.batch_size):
            loss = method.loss(torch.from_numpy(PIXELS[rows.numpy()]), method.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return method, losses


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_a_hand_written_loop_bit_for_bit(nesterov):
    settings = config(nesterov=nesterov, weight_decay=0.01, decay="all", log_every_steps=1)
    mine = Linear()
    result = train(mine, PIXELS, settings)
    kind = {"lr": 0.2, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.01}
    theirs, losses = by_hand(settings, lambda method: torch.optim.SGD(method.parameters(), **kind))
    assert torch.equal(weights(mine), weights(theirs))
    assert [record["loss"] for record in result.history if record["kind"] == "step"] == losses


def test_adamw_equals_a_hand_written_loop():
    settings = config(optimiser="adamw", learning_rate=0.01, weight_decay=0.1, decay="all")
    mine = Linear()
    train(mine, PIXELS, settings)
    theirs, _ = by_hand(settings, lambda method: torch.optim.AdamW(method.parameters(), lr=0.01, weight_decay=0.1))
    assert torch.equal(weights(mine), weights(theirs))


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_equals_the_whole_batch(parts):
    whole, cut = Linear().double(), Linear().double()
    history = train(whole, PIXELS, config()).history
    again = train(cut, PIXELS, config(accumulate=parts)).history
    assert (weights(whole) - weights(cut)).abs().max() < 1e-13  # double precision: what is left is the order of sums
    assert again[-1]["loss"] == pytest.approx(history[-1]["loss"], abs=1e-12)


def test_accumulation_cuts_each_batch_into_parts_with_the_same_draws():
    seen = []

    class Looking(Linear):
        def step(self, batch):
            draws = torch.rand(len(batch.global_indices), generator=batch.generator)
            seen.append((batch.step, batch.slice, draws, batch.weight, batch.part_indices.tolist()))
            assert torch.equal(batch.indices, batch.global_indices[batch.slice])
            assert np.array_equal(batch.pixels.numpy(), PIXELS[batch.indices.numpy()])
            return super().step(batch)

    train(Looking(), PIXELS, config(accumulate=4, epochs=1))
    first = [entry for entry in seen if entry[0] == 0]
    assert [entry[1] for entry in first] == [slice(start, start + 4) for start in (0, 4, 8, 12)]
    assert all(torch.equal(entry[2], first[0][2]) for entry in first)
    assert not torch.equal(first[0][2], seen[4][2])
    for step in range(3):
        assert sum(entry[3] for entry in seen if entry[0] == step) == pytest.approx(1)
        assert sum(len(entry[4]) for entry in seen if entry[0] == step) == (16, 16, 8)[step]


def test_gradient_clipping_limits_the_step():
    method = Linear()
    before = weights(method)
    train(method, PIXELS, config(epochs=1, batch_size=40, momentum=0.0, clip_gradient_norm=0.01))
    assert (weights(method) - before).norm().item() == pytest.approx(0.2 * 0.01, rel=1e-3)


def test_learning_rate_scales_of_groups_are_used():
    class Scaled(Linear):
        def parameter_groups(self, settings):
            first = split_by_dimension(self.first.parameters(), settings, lr_scale=0.0)
            return [*first, *split_by_dimension(self.second.parameters(), settings)]

    method, start = Scaled(), Linear()
    train(method, PIXELS, config(epochs=1))
    assert torch.equal(method.first.weight, start.first.weight)
    assert not torch.equal(method.second.weight, start.second.weight)


def test_hooks_run_in_order():
    calls = []

    class Hooked(Linear):
        def start_epoch(self, epoch, context):
            assert not torch.is_grad_enabled()
            assert (context.size, context.steps_per_epoch, context.total_steps) == (40, 3, 6)
            calls.append(("start", epoch))

        def step(self, batch):
            assert self.training
            calls.append(("step", batch.epoch, batch.step))
            return super().step(batch)

        def after_step(self, batch):
            assert not torch.is_grad_enabled()
            assert batch.slice == slice(0, len(batch.global_indices))
            calls.append(("after", batch.step))

        def end_epoch(self, epoch, context):
            self.eval()
            calls.append(("end", epoch))
            return {"extra": epoch + 0.5}

        def watch(self, record):
            calls.append(("watch", record["step"], "extra" in record))

    result = train(Hooked(), PIXELS, config(log_every_steps=3))
    epoch = [("start", 0), *[(k, *((0, s) if k == "step" else (s,))) for s in range(3) for k in ("step", "after")]]
    assert calls[:7] == epoch
    assert calls[7:10] == [("watch", 3, False), ("end", 0), ("watch", 3, True)]
    assert calls[10] == ("start", 1)
    assert [record["extra"] for record in result.history if record["kind"] == "epoch"] == [0.5, 1.5]


def test_history_is_json_with_means_weighted_by_images_and_without_nan():
    class Numbers(Linear):
        def step(self, batch):
            return {**super().step(batch), "rows": torch.tensor(float(len(batch))), "odd": torch.tensor(float("nan"))}

    result = train(Numbers(), PIXELS, config(epochs=1, log_every_steps=2))
    json.dumps(result.history, allow_nan=False)
    assert [(record["kind"], record["step"], record["epoch"]) for record in result.history] == [
        ("step", 2, 0),
        ("step", 3, 0),
        ("epoch", 3, 0),
    ]
    assert [record["rows"] for record in result.history] == pytest.approx([16, 8, (16 * 16 * 2 + 8 * 8) / 40])
    assert all(record["odd"] is None for record in result.history)
    assert [record["learning_rate"] for record in result.history[:2]] == [0.2, 0.2]
    assert all(record["images_per_second"] > 0 for record in result.history)
    assert (result.steps, result.images, result.device, result.resumed_from) == (3, 40, "cpu", None)


def test_a_seed_fixes_everything_and_another_one_changes_it():
    ends = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(ends))  # what the caller's generator holds must not matter
        method = toy.Toy()
        train(method, toy.toy_pixels(), toy.settings(seed=seed, epochs=2))
        ends.append(toy.bytes_of(method))
    assert ends[0] == ends[1] != ends[2]


def test_the_callers_random_state_is_untouched():
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    train(toy.Toy(), toy.toy_pixels(), toy.settings(epochs=1))
    assert torch.equal(torch.rand(3), wanted)


class Breaking(Linear):
    def __init__(self, at, value=float("nan")):
        super().__init__()
        self.at, self.value = at, value

    def step(self, batch):
        scalars = {**super().step(batch), "entropy": torch.tensor(1.25)}
        if batch.step == self.at:
            scalars["loss"] = scalars["loss"] * self.value
        return scalars


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step_and_says_what_to_do(tmp_path, value):
    method, good = Breaking(4, value), Breaking(99)
    with pytest.raises(TrainingDiverged) as caught:
        train(method, PIXELS, config(checkpoint_seconds=0.0), checkpoint=tmp_path / "c.pt", name="pretraining")
    message = str(caught.value)
    for part in ("`loss`", "step 5 of 6 of pretraining", "epoch 2", "entropy 1.25", "Lower learning_rate (now 0.2)"):
        assert part in message
    assert f"kept in {tmp_path / 'c.pt'}" in message
    assert "fp32" not in message
    assert caught.value.exit_code == 3
    whole = Breaking(99)
    result = train(good, PIXELS, config(), checkpoint=tmp_path / "c.pt", name="pretraining")
    train(whole, PIXELS, config())
    assert result.resumed_from == 4
    assert torch.equal(weights(good), weights(whole))


def test_weights_after_a_loss_that_is_not_finite_are_those_before_the_step():
    broken, whole = Breaking(3), Breaking(99)
    with pytest.raises(TrainingDiverged):
        train(broken, PIXELS, config())
    train(whole, PIXELS, config(epochs=1))
    assert torch.equal(weights(broken), weights(whole))


def test_advice_names_fp32_where_it_is_not_used():
    with pytest.raises(TrainingDiverged, match="precision=fp32"):
        train(Breaking(0), PIXELS, config(precision="bf16"))


def test_broken_weights_never_replace_a_good_checkpoint(tmp_path):
    class Poison(Linear):
        def after_step(self, batch):
            if batch.step == 3:
                self.first.weight.fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match=r"`weights` to be finite after step 4 of 6"):
        train(Poison(), PIXELS, config(checkpoint_seconds=0.0), checkpoint=tmp_path / "c.pt")
    kept = ferry.training.checkpoint.read_checkpoint(tmp_path / "c.pt")
    assert kept["step"] == 3
    assert torch.isfinite(kept["method"]["first.weight"]).all()
    with pytest.raises(TrainingDiverged):
        train(Poison(), PIXELS, config())


def test_watch_can_stop_a_collapsed_training():
    class Collapsed(Linear):
        def watch(self, record):
            if record["loss"] < 100:
                raise TrainingDiverged("collapsed: use more prototypes")

    with pytest.raises(TrainingDiverged, match="use more prototypes"):
        train(Collapsed(), PIXELS, config(log_every_steps=1))


@pytest.mark.parametrize(
    ("scalars", "message"),
    [
        ({"entropy": torch.ones(())}, "returns 'loss'"),
        ({"loss": torch.ones(3, requires_grad=True)}, "a scalar with a gradient"),
        ({"loss": torch.ones(())}, "a scalar with a gradient"),
    ],
)
def test_a_step_must_return_a_loss_with_a_gradient(scalars, message):
    class Wrong(Linear):
        def step(self, batch):
            return scalars

    with pytest.raises(UserError, match=message):
        train(Wrong(), PIXELS, config())


def test_a_method_without_parameters_is_refused():
    with pytest.raises(UserError, match="trainable parameters"):
        train(Linear().requires_grad_(False), PIXELS, config())


@pytest.mark.parametrize(
    "pixels", [PIXELS.astype(np.float32), PIXELS[:, 0], [1, 2], torch.zeros(4, 1, 8, 8, dtype=torch.uint8)]
)
def test_pixels_must_be_uint8_images(pixels):
    with pytest.raises(UserError, match=r"`pixels`.*uint8 \[N, C, H, W\]"):
        train(Linear(), pixels, config())


def test_no_images_are_refused():
    with pytest.raises(UserError, match=r"`pixels`.*at least one image"):
        train(Linear(), PIXELS[:0], config())


def test_a_memory_map_that_cannot_be_written_trains(tmp_path):
    np.save(tmp_path / "pixels.npy", PIXELS)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    one, other = Linear(), Linear()
    train(one, mapped, config())
    train(other, PIXELS, config())
    assert torch.equal(weights(one), weights(other))


WRONG = [
    ("epochs", 0, "at least 1"),
    ("batch_size", 0, "at least 1"),
    ("accumulate", 0, "at least 1"),
    ("log_every_steps", 0, "at least 1"),
    ("learning_rate", 0.0, "positive"),
    ("learning_rate", float("nan"), "positive"),
    ("momentum", 1.0, "below 1"),
    ("weight_decay", -1.0, "0 or more"),
    ("checkpoint_seconds", -1.0, "0 or more"),
    ("lars_coefficient", 0.0, "positive"),
    ("optimiser", "adam", "Did you mean 'adamw'"),
    ("schedule", "cosin", "Did you mean 'cosine'"),
    ("precision", "bf61", "Did you mean 'bf16'"),
    ("decay", "none", "one of weights, all"),
    ("warmup_epochs", 10.0, r"below `epochs` \(10\)"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_settings_are_checked_when_they_are_made(field, value, message):
    with pytest.raises(UserError, match=message) as caught:
        LoopConfig(**{field: value})
    assert f"`{field}`" in str(caught.value)


def test_settings_can_be_words_of_a_command_line():
    words = {"learning_rate": "0.3", "epochs": "4", "channels_last": "true", "optimiser": "lars", "drop_last": "no"}
    made = from_mapping(LoopConfig, words)
    assert made == LoopConfig(learning_rate=0.3, epochs=4, channels_last=True, optimiser="lars", drop_last=False)
    with pytest.raises(UserError, match="Did you mean 'learning_rate'"):
        from_mapping(LoopConfig, {"learnin_rate": "0.3"})


def test_nesterov_needs_sgd_with_momentum():
    for settings in ({"optimiser": "lars"}, {"momentum": 0.0}):
        with pytest.raises(UserError, match="`nesterov`"):
            LoopConfig(nesterov=True, **settings)


@pytest.mark.parametrize(
    ("size", "drop_last", "sizes"),
    [
        (10, False, [4, 4, 2]),
        (9, False, [4, 5]),
        (8, False, [4, 4]),
        (10, True, [4, 4]),
        (1, False, [1]),
        (3, False, [3]),
    ],
)
def test_batches_cover_an_epoch_once_and_no_image_is_alone(size, drop_last, sizes):
    sampler = Sampler(size, 4, seed=2, drop_last=drop_last)
    batches = [sampler.batch(1, index) for index in range(sampler.steps_per_epoch)]
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), permutation(size, 2, 1)[: sum(sizes)])
    assert sampler.images_per_epoch == sum(sizes)
    assert [sampler.images_before(step) for step in range(len(sizes) + 1)] == [
        sum(sizes[:n]) for n in range(len(sizes) + 1)
    ]


def test_order_depends_on_seed_and_epoch_only():
    assert torch.equal(permutation(20, 1, 2), permutation(20, 1, 2))
    assert not torch.equal(permutation(20, 1, 2), permutation(20, 1, 3))
    assert not torch.equal(permutation(20, 1, 2), permutation(20, 2, 2))
    assert sorted(permutation(20, 1, 2).tolist()) == list(range(20))
    seeds = {seed_for(purpose, seed, 3, 4) for purpose in ("draws", "noise", "start") for seed in (-1, 0, 1)}
    assert len(seeds) == 9


def test_shares_are_contiguous_nearly_equal_and_complete():
    for rows in range(8):
        for parts in (1, 2, 3, 5):
            cut = [share(slice(2, 2 + rows), parts, part) for part in range(parts)]
            assert [row for piece in cut for row in range(piece.start, piece.stop)] == list(range(2, 2 + rows))
            sizes = [piece.stop - piece.start for piece in cut]
            assert max(sizes) - min(sizes) <= 1


def test_dropping_the_last_batch_needs_a_whole_one():
    with pytest.raises(UserError, match=r"`batch_size`.*at most the number of images \(40\).*drop_last=false"):
        train(Linear(), PIXELS, config(batch_size=64, drop_last=True))


def test_long_trainings_get_a_written_estimate(monkeypatch, caplog):
    class Slow(Linear):
        flops_per_image = 2.5e9

        def step(self, batch):
            time.sleep(0.002)
            return super().step(batch)

    monkeypatch.setitem(train.__globals__, "WORTH_SAYING_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="ferry"):
        result = train(Slow(), PIXELS, config(epochs=10, batch_size=8))
    lines = [record.message for record in caplog.records if "TFLOP" in record.message]
    assert len(lines) == 1
    assert result.estimate is not None
    assert result.estimate.images == 400 - 12 * 8
    assert f"for {400 - 12 * 8:,} images at" in lines[0]
    assert result.estimate.tflop == pytest.approx(result.estimate.images * 2.5e9 / 1e12)
    assert result.estimate.seconds == pytest.approx(result.estimate.images / result.estimate.images_per_second)


def test_the_estimate_is_right_where_all_steps_take_the_same_time(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Slow(Linear):
        def step(self, batch):
            now[0] += 0.25
            return super().step(batch)

    result = train(Slow(), PIXELS, config(epochs=5, batch_size=8))
    assert result.seconds == pytest.approx(25 * 0.25)
    assert result.estimate.seconds == pytest.approx(result.estimate.images / 8 * 0.25)
    assert 0 < result.estimate.images < result.images


def test_estimates_read_well_and_short_trainings_say_nothing(caplog):
    assert str(estimate.Estimate(90_000, 300.0, 300.0, 12.34)) == (
        "about 5 min 0 s for 90,000 images at 300 images/s (12.3 TFLOP)"
    )
    assert str(estimate.Estimate(20, 0.5, 40.0, None)) == "about 40 s for 20 images at 0.5 images/s"
    with caplog.at_level("INFO", logger="ferry"):
        train(Linear(), PIXELS, config(epochs=8, batch_size=8))
    assert "images/s" not in caplog.text


def test_slow_steps_are_estimated_before_ten_of_them(monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 15.0))
    monkeypatch.setattr(estimate.time, "monotonic", lambda: float(next(clock)))
    watch = estimate.Stopwatch(0.0)
    assert [watch.step(30, 600) is not None for _ in range(5)] == [False, False, False, True, False]
    assert watch.estimate == estimate.Estimate(600, 2.0, 300.0, None)


def test_flops_are_counted_with_the_backward_pass():
    layer = nn.Linear(10, 20, bias=False)
    images = torch.randn(5, 10)
    assert flops_of(lambda: layer(images)) == 2 * 5 * 10 * 20
    assert flops_of(lambda: layer(images).sum().backward()) == 2 * 2 * 5 * 10 * 20


def test_batches_and_contexts_can_be_made_by_hand():
    batch = make_batch(PIXELS, torch.tensor([3, 1]), epoch=1, step=2, seed=3)
    assert np.array_equal(batch.pixels.numpy(), PIXELS[[3, 1]])
    assert (len(batch), batch.weight, batch.slice) == (2, 1.0, slice(0, 2))
    assert np.array_equal(batch.fetch(torch.tensor([0])).numpy(), PIXELS[:1])
    again = make_batch(PIXELS, torch.tensor([5]), epoch=1, step=2, seed=3)
    assert torch.equal(torch.rand(4, generator=batch.generator), torch.rand(4, generator=again.generator))
    context = make_context(PIXELS, config())
    indices, images = zip(*context.batches(16), strict=True)
    assert torch.cat(indices).tolist() == list(range(40))
    assert np.array_equal(torch.cat(images).numpy(), PIXELS)


def test_the_room_exports_its_names_lazily():
    for name in ferry.training.__all__:
        assert getattr(ferry.training, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ferry.training.nothing
