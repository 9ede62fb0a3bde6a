"""The classes of foreign models: their names mapped into Ferry's names, their outputs into Ferry's order."""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import closest, expected
from ..faces.labels import SYNONYMS, canonical, looks_like_label
from ..faces.schema import UNKNOWN


def canonical_name(name: str) -> str:
    """Returns Ferry's name for an expression; a name that means none of them is returned as it is, in lower case.

    Raises:
        UserError: The name looks like a misspelt expression, or means that there is none.
    """
    word = canonical(name)
    if word == UNKNOWN:
        raise expected("classes", "expressions", name, "Write null instead to leave that output out.")
    if word is None and looks_like_label(name):
        fix = closest(name.lower(), list(SYNONYMS)).strip() or "Write the expression's name."
        raise expected("classes", "known expressions or other words altogether", name, fix)
    return word or name.strip().lower()


def canonical_order(names: Sequence[str | None]) -> tuple[tuple[str, ...], list[int]]:
    """Maps class names in the order of a model's outputs into Ferry's names and order.

    The order is alphabetical by Ferry's names, which is that of :data:`ferry.faces.EXPRESSIONS`. A model whose outputs
    are read in the order of another tool still scores far above chance, so that nobody notices.

    Args:
        names: One name per output; None leaves that output out.

    Returns:
        The names in Ferry's order, and for each the index of its output.

    Raises:
        UserError: Two names mean the same, or fewer than two are left.
    """
    known = sorted((canonical_name(name), index) for index, name in enumerate(names) if name is not None)
    words = [word for word, _ in known]
    if len(set(words)) != len(words):
        doubled = sorted({word for word in words if words.count(word) > 1})
        raise expected("classes", "names of different expressions", list(names), f"More than one means {doubled}.")
    if len(words) < 2:
        raise expected("classes", "at least two names", list(names), "A classifier needs two classes or more.")
    return tuple(words), [index for _, index in known]
