"""Splits by content and the search for repeated pictures, against plain Python."""

import hashlib
import random
from collections import defaultdict

import pytest
from ferry.faces.splits import ContentLog, Place, hash_side


def content(number):
    return hashlib.blake2b(str(number).encode(), digest_size=16).digest()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_share_of_the_holdout_is_as_asked(share):
    sides = [hash_side(content(i), share) for i in range(20_000)]
    # Four standard deviations of a binomial share.
    assert abs(sides.count("test") / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_side_is_fixed_for_ever():
    """A change here would silently move faces between training and test of everybody's data."""
    sides = [hash_side(content(i), 0.5) for i in range(12)]
    assert [side == "test" for side in sides] == [bool(int(bit)) for bit in "101111010110"]


def test_a_larger_holdout_contains_the_smaller():
    small = {i for i in range(2000) if hash_side(content(i), 0.1) == "test"}
    large = {i for i in range(2000) if hash_side(content(i), 0.3) == "test"}
    assert small < large


def test_repeats_agree_with_plain_python():
    chance = random.Random(0)
    log, seen, rows = ContentLog(), defaultdict(list), defaultdict(int)
    for index in range(3000):
        split, number, label = (
            chance.choice(["train", "test", "validation"]),
            chance.randrange(2000),
            chance.randrange(3),
        )
        log.add(split, content(number), f"{index}", label)
        seen[number].append(Place(split, rows[split], label))
        rows[split] += 1
    several = [tuple(places) for places in seen.values() if len(places) > 1]
    repeats = log.repeats()
    assert sorted(repeats.pictures, key=repr) == sorted(several, key=repr)
    assert repeats.across == sum(len({p.split for p in places}) > 1 for places in several)
    assert repeats.conflicting == sum(len({p.label for p in places}) > 1 for places in several)
    for split in rows:
        unique = sum(any(p.split == split for p in places) for places in seen.values())
        assert repeats.within[split] == rows[split] - unique
    gone = {(split, row) for split, found in repeats.surplus_of_overlap().items() for row in found}
    assert not any(split == "test" for split, _ in gone)
    for places in seen.values():
        left = {place.split for place in places if (place.split, place.row) not in gone}
        assert len(left) == 1


def test_keys_are_compared_inside_each_split():
    log = ContentLog()
    for split, key in [("train", "a"), ("test", "a"), ("train", "b"), ("train", "a"), ("train", "a")]:
        log.add(split, content(0), key)
    assert log.repeated_keys() == {"train": [2, 3]}


def test_empty_and_single_logs_have_no_repeats():
    log = ContentLog()
    assert log.repeats().pictures == ()
    log.add("train", content(1), "a")
    assert log.repeats().pictures == ()
    assert log.repeats().within == {"train": 0}
    assert log.repeated_keys() == {}
    assert len(log) == 1
