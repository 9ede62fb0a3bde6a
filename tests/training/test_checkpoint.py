"""Checkpoints that are damaged, foreign, half written or on a full disk."""

import json
import os
import pickle
import runpy
import shutil
import signal
import subprocess
import tempfile
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ferry.common import files
from ferry.common.errors import RetryableError, UserError
from ferry.training import train
from ferry.training.checkpoint import Checkpoint, read_checkpoint, same_weights
from ferry.training.resume import fingerprint_of

SCRIPT = Path(__file__).with_name("toy.py")
toy = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
IDENTITY = {"name": "training", "epochs": 3}


def content(step):
    return {"identity": IDENTITY, "step": step, "method": {"weight": torch.full((50,), float(step))}}


@pytest.fixture
def pair(tmp_path):
    """A checkpoint of step 2 with the one of step 1 before it."""
    checkpoint = Checkpoint(tmp_path / "run" / "c.pt")
    checkpoint.save(content(1))
    checkpoint.save(content(2))
    return checkpoint


def test_the_newest_is_read_and_the_one_before_is_kept(pair):
    assert pair.load(IDENTITY)["step"] == 2
    assert read_checkpoint(pair.previous)["step"] == 1
    pair.save(content(3))
    assert (read_checkpoint(pair.path)["step"], read_checkpoint(pair.previous)["step"]) == (3, 2)
    assert sorted(entry.name for entry in pair.path.parent.iterdir()) == ["c.pt", "c.pt.previous"]


def test_without_a_file_there_is_nothing(tmp_path):
    assert Checkpoint(tmp_path / "none" / "c.pt").load(IDENTITY) is None


def test_any_truncation_falls_back_with_a_warning(pair, caplog):
    whole = pair.path.read_bytes()
    for length in [0, 1, 10, *range(100, len(whole), 211), len(whole) - 1]:
        pair.path.write_bytes(whole[:length])
        caplog.clear()
        assert pair.load(IDENTITY)["step"] == 1, length
        assert f"{pair.path} is damaged" in caplog.text
        assert str(pair.previous) in caplog.text


def test_a_damaged_file_never_takes_the_place_of_the_good_one_before_it(pair, monkeypatch):
    pair.path.write_bytes(pair.path.read_bytes()[:-9])
    again = Checkpoint(pair.path)
    again.load(IDENTITY)
    rename = os.replace

    def killed(source, target):
        if target == pair.path:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        again.save(content(3))
    assert Checkpoint(pair.path).load(IDENTITY)["step"] == 1
    monkeypatch.undo()
    for step in (3, 4):
        again.save(content(step))
        assert read_checkpoint(pair.path)["step"] == step
    assert read_checkpoint(pair.previous)["step"] == 3


def test_any_changed_byte_is_noticed(pair):
    whole = pair.path.read_bytes()
    for place in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[place] ^= 0x5A
        pair.path.write_bytes(changed)
        assert pair.load(IDENTITY)["step"] == 1, place


def test_a_missing_newest_falls_back(pair):
    pair.path.unlink()
    assert pair.load(IDENTITY)["step"] == 1


def test_two_damaged_files_are_named_with_the_way_out(pair):
    for path in (pair.path, pair.previous):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"`checkpoint`.*readable.*damaged") as caught:
        pair.load(IDENTITY)
    assert str(pair.path) in str(caught.value)
    assert str(pair.previous) in str(caught.value)
    assert "Delete" in str(caught.value)


def test_another_training_is_refused_with_what_differs(pair):
    with pytest.raises(UserError) as caught:
        pair.load({"name": "training", "epochs": 5, "method": {"views": 4}})
    message = str(caught.value)
    for part in (str(pair.path), "epochs 3 there, 5 here", "method.views None there, 4 here", "Delete the file"):
        assert part in message
    assert "name training" not in message


def test_pickled_objects_are_never_loaded(pair):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(pair.path.parent / "trapped"),))

    pair.save({**content(3), "trap": Trap()})
    pair.save({**content(4), "trap": Trap()})
    with pytest.raises(UserError, match="damaged"):
        pair.load(IDENTITY)
    pair.path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="damaged"):
        pair.load(IDENTITY)
    assert not (pair.path.parent / "trapped").exists()


def test_another_format_is_refused_not_called_damaged(pair):
    for other in (1, 99, None):
        pair.save({**content(3), "format": other})
        with pytest.raises(UserError, match=rf"of format 2.*of format {other}'.*version of Ferry that wrote it"):
            pair.load(IDENTITY)


def test_what_a_killed_process_left_is_removed_and_nothing_else(pair):
    folder = pair.path.parent
    for name in (
        ".c.pt.abcd1234",
        ".c.pt.previous.00004711",
        ".c.pt.previous.abcdefg_",
        ".other.pt.abcd1234",
        "c.pt.bak",
    ):
        (folder / name).touch()
    pair.load(IDENTITY)
    assert sorted(entry.name for entry in folder.iterdir()) == [
        ".other.pt.abcd1234",
        "c.pt",
        "c.pt.bak",
        "c.pt.previous",
    ]


def test_without_hard_links_the_previous_one_is_a_copy(pair, monkeypatch):
    def refuse(*names):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    pair.save(content(3))
    assert (read_checkpoint(pair.path)["step"], read_checkpoint(pair.previous)["step"]) == (3, 2)


def full_disk(monkeypatch):
    """Makes temporary files live on /dev/full, where the kernel itself refuses every write."""
    monkeypatch.setattr(
        files.tempfile,
        "mkstemp",
        lambda prefix, dir: (os.open("/dev/full", os.O_WRONLY), str(Path(dir) / f"{prefix}full")),
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_can_be_retried_and_keeps_both_checkpoints(pair, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(
            RetryableError, match=r"`disk`.*No space left on device.*run the same command again"
        ) as caught:
            pair.save(content(3))
    assert caught.value.exit_code == 75
    assert (read_checkpoint(pair.path)["step"], read_checkpoint(pair.previous)["step"]) == (2, 1)
    assert sorted(entry.name for entry in pair.path.parent.iterdir()) == ["c.pt", "c.pt.previous"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_training_on_a_full_disk_goes_on_later_to_the_same_end(tmp_path, monkeypatch):
    path, whole = tmp_path / "c.pt", toy.once(None)
    saves = []
    real = Checkpoint.save

    def save(self, state):
        saves.append(state["step"])
        if len(saves) == 6:
            full_disk(monkeypatch)
        real(self, state)

    monkeypatch.setattr(Checkpoint, "save", save)
    with pytest.raises(RetryableError, match="`disk`"):
        toy.once(path)
    monkeypatch.undo()
    again = toy.once(path)
    assert again["resumed_from"] == saves[4]
    assert (again["state"], again["history"]) == (whole["state"], whole["history"])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs the right to mount")
def test_a_really_full_file_system(tmp_path):
    disk = Path(tempfile.mkdtemp(dir=tmp_path))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        checkpoint = Checkpoint(disk / "c.pt")
        checkpoint.save(content(1))
        checkpoint.save(content(2))
        big = {**content(3), "bank": torch.zeros(500_000)}
        with pytest.raises(RetryableError, match="No space left"):
            checkpoint.save(big)
        assert checkpoint.load(IDENTITY)["step"] == 2
        assert read_checkpoint(checkpoint.previous)["step"] == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_checkpoint_of_other_settings_data_or_method_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    toy.once(path)
    with pytest.raises(UserError, match=r"learning_rate 0.05 there, 0.06 here"):
        toy.once(path, learning_rate=0.06)
    with pytest.raises(UserError, match=r"data.digest .* there"):
        train(toy.Toy(), toy.toy_pixels(seed=1), toy.settings(), checkpoint=path)
    with pytest.raises(UserError, match=r"method.global_term False there, True here"):
        train(toy.Toy(global_term=True), toy.toy_pixels(), toy.settings(), checkpoint=path)
    with pytest.raises(UserError, match=r"name training there, other here"):
        train(toy.Toy(), toy.toy_pixels(), toy.settings(), checkpoint=path, name="other")
    other = toy.Toy()
    other.queue = torch.zeros(21, 8)
    with pytest.raises(UserError, match=r"of this method.*queue"):
        train(other, toy.toy_pixels(), toy.settings(), checkpoint=path)


@pytest.mark.parametrize("part", ["head", "net", "teacher"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_other_first_weights_is_refused(tmp_path, preloaded, part, finished):
    path = tmp_path / "c.pt"
    if finished:
        toy.once(path)
    else:
        killed = json.loads(preloaded.run(SCRIPT, "killed", str(path), "6"))
        assert killed["signal"] == signal.SIGKILL
    other = toy.Toy()
    with torch.no_grad():
        if part == "head":
            other.head.weight[0] *= 1.5
        elif part == "net":
            other.net[1].running_var.fill_(1.1)  # as AdaBN does
        else:
            other.teacher.neg_()
    before = toy.bytes_of(other)
    with pytest.raises(UserError, match=r"with weights -?[\d.]+ there, -?[\d.]+ here'.*first weights"):
        train(other, toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert toy.bytes_of(other) == before
    assert toy.once(path)["resumed_from"] == (12 if finished else 6)


def test_first_weights_that_differ_by_noise_are_the_same(tmp_path):
    path, rounded = tmp_path / "c.pt", toy.Toy()
    first = toy.once(path)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter *= 1 + 1e-5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    assert toy.bytes_of(rounded) != toy.bytes_of(toy.Toy())
    result = train(rounded, toy.toy_pixels(), toy.settings(), checkpoint=path)
    assert toy.outcome(rounded, result)["state"] == first["state"]


def seeded(seed, noise=0.0):
    """A method of random weights, with relative noise in all of them."""
    method, generator = toy.Toy(), torch.Generator().manual_seed(seed)
    for tensor in method.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    for tensor in method.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + noise * torch.randn(tensor.shape, generator=generator))
    return fingerprint_of(method)


@pytest.mark.parametrize("noise", [1e-7, 1e-6, 1e-5])
def test_no_seed_lies_at_a_border_where_noise_makes_other_weights(noise):
    assert all(same_weights(seeded(seed), seeded(seed, noise)) for seed in range(150))


def test_fingerprints_of_other_seeds_and_of_a_few_percent_differ():
    found = [seeded(seed) for seed in range(12)]
    assert not any(same_weights(one, other) for one, other in combinations(found, 2))
    changed = toy.Toy()
    with torch.no_grad():
        changed.head.weight *= 1.03
    assert not same_weights(fingerprint_of(changed), fingerprint_of(toy.Toy()))


def test_weights_that_are_unknown_or_not_finite_are_the_same_only_as_each_other():
    nan = float("nan")
    assert same_weights(None, None)
    assert same_weights(nan, nan)
    for one, other in ((None, 0.0), (0.0, None), (nan, 0.0), (0.0, nan), (0.0, 0.1)):
        assert not same_weights(one, other)


def test_fingerprints_see_every_tensor_and_no_order_of_sums():
    method = toy.Toy()
    whole = fingerprint_of(method)
    assert fingerprint_of(toy.Toy().double()) == pytest.approx(whole, abs=1e-9)
    seen = []
    for name, tensor in method.state_dict().items():
        if not tensor.is_floating_point():
            continue
        changed = toy.Toy()
        changed.state_dict()[name].copy_(torch.linspace(-1, 1, tensor.numel()).view_as(tensor))
        seen.append(fingerprint_of(changed))
    assert not any(same_weights(one, other) for one, other in combinations([whole, *seen], 2))
    empty = toy.Toy()
    for tensor in empty.state_dict().values():
        tensor.zero_()
    assert fingerprint_of(empty) == 0.0


def test_settings_that_do_not_change_the_result_may_change(tmp_path):
    path = tmp_path / "c.pt"
    first = toy.once(path)
    again = toy.once(path, checkpoint_seconds=30.0, log_every_steps=5, device="cpu")
    assert again["state"] == first["state"]


def test_the_digest_of_pixels_sees_shape_and_content():
    from ferry.training.resume import digest_of_pixels

    pixels = toy.toy_pixels()
    changed = pixels.copy()
    changed[-1, 0, 7, 7] ^= 1
    assert digest_of_pixels(pixels) == digest_of_pixels(np.array(pixels))
    assert digest_of_pixels(pixels) != digest_of_pixels(changed)
    assert digest_of_pixels(pixels) != digest_of_pixels(pixels.reshape(25, 2, 8, 8))
