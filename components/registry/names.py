"""What a registered model may be called; known before a training, so that none is refused after it."""

from __future__ import annotations

from ..common.errors import expected

LONGEST_NAME = 256
"""Characters that MLflow's databases hold; SQLite takes more, PostgreSQL and MySQL do not."""

_SIGNS = "/\\:@%?#'\"`"


def check_model_name(name: str) -> None:
    """Refuses a name that some part of the way would not take.

    MLflow itself refuses blanks, ``/`` and ``:``, and what a file system reads as another name (``.``, ``..`` and
    all that starts with it); its file store refuses ``%`` and backslashes too. Its filters know no escape for quotes.
    Its address ``models:/NAME@ALIAS`` ends at ``@`` and at ``?`` (elsewhere at ``#``), and loses tabs and line breaks.

    Args:
        name: What the model is to be called in the registry.

    Raises:
        UserError: It cannot be.
    """
    plain = name.isprintable() and not any(sign in name for sign in _SIGNS)
    whole = name == name.strip() and name != "." and not name.startswith("..")
    if not (plain and whole and 0 < len(name) <= LONGEST_NAME):
        without = f"{' '.join(_SIGNS)}, dots that name a folder, or spaces at the ends"
        rule = f"1 to {LONGEST_NAME} printable characters without {without}"
        raise expected("model_name", rule, name, "Choose one such as ferry-clup.")
