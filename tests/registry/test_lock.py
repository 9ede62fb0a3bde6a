from __future__ import annotations

import random
import threading
import time
from types import SimpleNamespace

import pytest
from ferry.common.errors import RetryableError
from ferry.registry import lock


class Tags:
    """The tags of one registered model; every call takes a random while, so that threads interleave."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self._alone = threading.Lock()

    def _wait(self) -> None:
        time.sleep(random.uniform(0, 0.003))

    def get_registered_model(self, name):
        self._wait()
        with self._alone:
            found = dict(self.tags)
        self._wait()
        return SimpleNamespace(tags=found)

    def set_registered_model_tag(self, name, key, value):
        self._wait()
        with self._alone:
            self.tags[key] = value
        self._wait()

    def delete_registered_model_tag(self, name, key):
        self._wait()
        with self._alone:
            self.tags.pop(key, None)


def test_two_are_never_inside_and_all_get_their_turn():
    client, inside, overlaps, done = Tags(), [], [], []

    def work(index: int) -> None:
        for _ in range(4):
            with lock.alone(client, "faces"):
                inside.append(index)
                time.sleep(0.002)
                overlaps.append(len(inside) > 1)
                inside.remove(index)
            done.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == sorted([0, 1, 2, 3] * 4)
    assert not any(overlaps)
    assert client.tags == {}


def test_a_lock_that_is_held_is_refused_after_the_wait_and_no_flag_is_left():
    client = Tags()
    with lock.alone(client, "faces"):
        before = dict(client.tags)
        with (
            pytest.raises(RetryableError, match="Expected `faces` to be free") as caught,
            lock.alone(client, "faces", 0.2),
        ):
            pass
        assert client.tags == before
    assert "Try again" in str(caught.value)
    assert client.tags == {}


@pytest.mark.parametrize(
    "value", [f"{time.time() - lock.STALE_SECONDS - 60:.0f}", "not a time", ""], ids=["old", "no time", "empty"]
)
def test_an_abandoned_flag_is_taken_over_and_removed(value):
    client = Tags()
    client.tags = {lock.PREFIX + "killed": value, "team": "faces"}
    with lock.alone(client, "faces", 0.0):
        assert lock.PREFIX + "killed" not in client.tags
    assert client.tags == {"team": "faces"}


def test_the_flag_is_lowered_when_the_work_fails():
    client = Tags()
    with pytest.raises(KeyError), lock.alone(client, "faces"):
        raise KeyError("work")
    assert client.tags == {}


def test_who_was_too_slow_may_not_go_on():
    lock.Held(time.monotonic() + 60).check()
    with pytest.raises(RetryableError, match="took longer"):
        lock.Held(time.monotonic() - 1).check()
