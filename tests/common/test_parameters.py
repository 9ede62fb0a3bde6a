from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from ferry.common.errors import UserError
from ferry.common.parameters import from_mapping


@dataclass(frozen=True)
class Config:
    epochs: int = 1
    rate: float = 0.1
    method: Literal["swav", "deepcluster"] = "swav"
    queue: bool = True
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None
    name: str = ""


def test_text_and_typed_values_mean_the_same():
    text = {"epochs": "3", "rate": "0.5", "method": "deepcluster", "queue": "no", "sizes": "2, 6", "limit": "none"}
    typed = {"epochs": 3, "rate": 0.5, "method": "deepcluster", "queue": False, "sizes": [2, 6], "limit": None}
    assert from_mapping(Config, text) == from_mapping(Config, typed)
    assert from_mapping(Config, text) == Config(3, 0.5, "deepcluster", False, (2, 6), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"Expected `training\.epoch` .*Did you mean 'epochs'\?"),
        ({"epochs": "three"}, r"Expected `training\.epochs` to be a whole number, but got 'three'"),
        ({"epochs": 1.5}, "whole number"),
        ({"epochs": True}, "whole number"),
        ({"rate": "fast"}, "a number"),
        ({"method": "swaw"}, r"one of swav, deepcluster, but got 'swaw'\. Did you mean 'swav'\?"),
        ({"queue": "maybe"}, "true or false"),
        ({"name": 3}, "text"),
        ({"sizes": "2,x"}, "whole number"),
    ],
)
def test_wrong_values_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        from_mapping(Config, values, "training.")


def test_a_union_of_choices_takes_each_of_them():
    @dataclass(frozen=True)
    class Choice:
        stem: Literal["cifar"] | Literal["auto"] = "auto"

    assert from_mapping(Choice, {"stem": "auto"}).stem == "auto"
    with pytest.raises(UserError, match="one of cifar, auto"):
        from_mapping(Choice, {"stem": "cifra"})


def test_a_path_is_text():
    assert from_mapping(Config, {"name": Path("a") / "b"}).name == "a/b"


def test_whole_floats_are_whole_numbers_because_kfp_turns_ints_into_floats():
    assert from_mapping(Config, {"epochs": 3.0}).epochs == 3
