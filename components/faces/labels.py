"""One vocabulary of expressions, and how the labels of every public data set map into it, by name and by code.

Numbers never become labels without a table that names them: the same integer means different expressions in
different data sets, and even in two releases of one set (AFE).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..common.errors import UserError, expected, unknown
from ..common.files import read_json
from .schema import CONTEMPT, EXPRESSIONS, UNKNOWN

VOCABULARY = (*EXPRESSIONS, CONTEMPT, UNKNOWN)
"""Every name that a reader may give to a face. The importer drops or keeps the last two."""

_WORDS = {
    "anger": ("anger", "angry", "angriness", "angered", "ang"),
    "disgust": ("disgust", "disgusted", "disgusting", "dis"),
    "fear": ("fear", "fearful", "feared", "afraid", "scared", "fea"),
    "happiness": ("happiness", "happy", "happily", "joy", "joyful", "hap"),
    "neutral": ("neutral", "neutrality", "neu"),
    "sadness": ("sadness", "sad", "saddened", "sadly"),
    "surprise": ("surprise", "surprised", "suprise", "suprised", "sur"),
    CONTEMPT: (CONTEMPT, "contemptuous", "contempted", "con"),
    UNKNOWN: (UNKNOWN, "uncertain", "none", "nf", "noface", "nonface", "notface", "notaface"),
}
SYNONYMS: Mapping[str, str] = MappingProxyType({word: label for label, words in _WORDS.items() for word in words})
"""Words that mean an expression, lower case and letters only, with the name that Ferry uses."""

_INTEGER = re.compile(r"[+-]?[0-9]+")
_LEADING_NUMBER = re.compile(r"^\d+[\s_.\-]*(?=\D)")
_SHOWN_NAMES, _LISTED_NAMES = 12, 200

LabelMapping = Mapping[str, str]


@dataclass(frozen=True)
class LabelCodes:
    """The integer codes of one data set, as its authors publish them.

    Attributes:
        data_set: The data set and, where there are several, the coding.
        codes: Integer to a name of :data:`VOCABULARY`.
        source: Where the table is published.
    """

    data_set: str
    codes: Mapping[int, str]
    source: str

    def label(self, code: Any, where: str, label_map: LabelMapping | None = None) -> str:
        """Returns the name for `code`.

        Args:
            code: An integer, or text that holds one.
            where: File and row, for the message.
            label_map: The user's own pairs from :func:`parse_label_map`; they win over the table.

        Raises:
            UserError: The table has no such code.
        """
        own = (label_map or {}).get(_key(code))
        if own is not None:
            return own
        number = _whole(code)
        if number is None or number not in self.codes:
            raise expected(where, f"a label of {self.data_set} ({self})", code, f"Correct the file, or {_MAP_ADVICE}")
        return self.codes[number]

    def __str__(self) -> str:
        return ", ".join(f"{code} = {label}" for code, label in self.codes.items())


def _codes(data_set: str, first: int, names: Iterable[str], source: str) -> LabelCodes:
    return LabelCodes(data_set, MappingProxyType(dict(enumerate(names, start=first))), source)


_A, _D, _F, _H, _N, _SA, _SU = EXPRESSIONS

CODES: Mapping[str, LabelCodes] = MappingProxyType(
    {
        "fer2013": _codes(
            "FER2013",
            0,
            (_A, _D, _F, _H, _SA, _SU, _N),
            "Kaggle, Challenges in Representation Learning: Facial Expression Recognition Challenge, data page",
        ),
        "ferplus": _codes(
            "FER+",
            0,
            (_N, _H, _SU, _SA, _A, _D, _F, CONTEMPT, UNKNOWN, UNKNOWN),
            "column order of fer2013new.csv (Barsoum et al., ICMI 2016); the last two are unknown and NF, not a face",
        ),
        "rafdb": _codes(
            "RAF-DB", 1, (_SU, _F, _D, _H, _SA, _A, _N), "readme of RAF-DB, basic emotions (Li et al., CVPR 2017)"
        ),
        "expw": _codes(
            "ExpW", 0, (_A, _D, _F, _H, _SA, _SU, _N), "readme of ExpW beside label.lst (Zhang et al., IJCV 2018)"
        ),
        "afe": _codes("AFE", 0, (_A, _D, _F, _H, _N, _SA, _SU), "public csv files, as read by the CluP release"),
        "afe-internal": LabelCodes(
            "AFE (internal coding)",
            MappingProxyType({0: _N, 1: _H, 3: _SU, 4: _SA, 5: _D, 6: _F, 9: _A}),
            "lists of the cross-domain FER benchmark, where the set is called AFED (Chen et al., TPAMI 2022)",
        ),
        "affectnet": _codes(
            "AffectNet",
            0,
            (_N, _H, _SA, _SU, _F, _D, _A, CONTEMPT, UNKNOWN, UNKNOWN, UNKNOWN),
            "AffectNet data description (Mollahosseini et al., TAC 2019); the last three are none, uncertain, no-face",
        ),
    }
)
"""Official integer codes by data set; ``afe-internal`` is the second coding of AFE that is in circulation."""

_MAP_ADVICE = (
    "say what it means with the option label_map: pairs such as label_map='glad=happiness,3=surprise', "
    'or a JSON file such as {"glad": "happiness"}.'
)


def canonical(name: str) -> str | None:
    """Returns the name of :data:`VOCABULARY` that `name` means, or None.

    Case, punctuation and a leading number are ignored: ``Happy``, ``1_surprise``, ``No-Face``. A bare number means
    nothing.
    """
    word = _LEADING_NUMBER.sub("", name.strip().casefold())
    return SYNONYMS.get(re.sub(r"[^a-z]", "", word)) if not re.search(r"\d", word) else None


def parse_label_map(value: Any) -> dict[str, str]:
    """Reads the option ``label_map``.

    Args:
        value: Empty, a mapping, text with ``name=expression`` pairs separated by commas, or the path of a JSON file
            that holds one object.

    Returns:
        The user's names (trimmed, lower case) to names of :data:`VOCABULARY`.

    Raises:
        UserError: The text is no list of pairs, the file is not JSON, or an expression is not known.
    """
    if value is None or value == "":
        return {}
    if isinstance(value, Mapping):
        pairs = [(str(name), str(label)) for name, label in value.items()]
    elif isinstance(value, (str, os.PathLike)):
        pairs = _pairs_of_text(os.fspath(value))
    else:
        raise expected("label_map", "pairs or a JSON file", value, "Pass for example label_map='glad=happiness'.")
    result = {}
    for name, label in pairs:
        meaning = canonical(label)
        if meaning is None:
            raise unknown(f"label_map[{name}]", label, VOCABULARY)
        result[_key(name)] = meaning
    return result


def label_of(name: str, where: str, label_map: LabelMapping | None = None) -> str:
    """Returns the name of :data:`VOCABULARY` that a label text means.

    Args:
        name: What the data set says.
        where: File and row, for the message.
        label_map: The user's own pairs from :func:`parse_label_map`; they win.

    Raises:
        UserError: The text means no expression.
    """
    return labels_of([name], where, label_map)[name]


def labels_of(names: Iterable[str], where: str, label_map: LabelMapping | None = None) -> dict[str, str]:
    """Returns what each of `names` means; all that mean nothing are reported in one error.

    Args:
        names: Folder names or label texts of a data set.
        where: What they are, for the message, for example ``"class folders of /data/faces"``.
        label_map: The user's own pairs from :func:`parse_label_map`; they win.

    Raises:
        UserError: Some of the names mean no expression. The message lists all names, the closest expressions, and
            how to pass a map.
    """
    own, found = label_map or {}, list(dict.fromkeys(names))
    meanings = {name: own.get(_key(name)) or canonical(name) for name in found}
    strangers = [name for name, meaning in meanings.items() if meaning is None]
    if strangers:
        raise _not_expressions(strangers, found, where)
    return {name: meaning for name, meaning in meanings.items() if meaning is not None}


def looks_like_label(name: str) -> bool:
    """Tells whether `name` may be a label: a word for an expression or nearly one, or a number as small as a code."""
    code = _whole(name)
    if code is not None:
        return 0 <= code <= max(max(table.codes) for table in CODES.values())
    return canonical(name) is not None or bool(_nearest(name, cutoff=0.8))


def _not_expressions(strangers: list[str], found: list[str], where: str) -> UserError:
    hints = []
    for name in strangers[:_SHOWN_NAMES]:
        if _whole(name) is not None:
            continue
        near = _nearest(name)
        if near:
            hints.append(f"'{name}' may mean '{near}'.")
    if any(_whole(name) is not None for name in strangers):
        hints.append("A bare number means different expressions in different data sets, so it needs a name.")
    if len(found) > min(len(strangers), _SHOWN_NAMES):
        hints.append(f"All of them: {_listed(found, _LISTED_NAMES)}.")
    hints.append(f"Rename them, or {_MAP_ADVICE} Expressions are {', '.join(VOCABULARY)}.")
    return expected(where, "names of expressions", _listed(strangers), " ".join(hints))


def _listed(names: list[str], shown: int = _SHOWN_NAMES) -> str:
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def _nearest(name: str, cutoff: float = 0.6) -> str:
    word = re.sub(r"[^a-z]", "", name.casefold())
    near = get_close_matches(word, [known for known in SYNONYMS if len(known) > 3 or known == "sad"], 1, cutoff)
    return SYNONYMS[near[0]] if near else ""


def _pairs_of_text(text: str) -> list[tuple[str, str]]:
    if text.lower().endswith(".json") or Path(text).is_file():
        content = read_json(text, "label_map")
        if not isinstance(content, dict):
            raise expected("label_map", "a JSON object", content, 'Write for example {"glad": "happiness"}.')
        return [(str(name), str(label)) for name, label in content.items()]
    pairs = []
    for item in filter(str.strip, text.split(",")):
        name, sign, label = item.partition("=")
        if not sign or not name.strip():
            raise expected("label_map", "name=expression pairs", item, "Pass for example label_map='glad=happiness'.")
        pairs.append((name.strip(), label.strip()))
    return pairs


def _key(value: Any) -> str:
    number = _whole(value)
    return str(value).strip().casefold() if number is None else str(number)


def _whole(value: Any) -> int | None:
    """Returns the integer that `value` is or spells, or None; 3.0 and "3.0" are no label codes."""
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return int(value)
