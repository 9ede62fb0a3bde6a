"""Names of models: those that everything on the way takes, and those that something would refuse."""

from __future__ import annotations

GOOD = ["ferry-clup", "Ferry_2.clup", "two words", "émotions", "a..b", "a+b=c", "n" * 256]

REFUSED_BY_MLFLOW = ["a/b", "a:1", ".", "..", "..a", " ", "\t", "./a"]

REFUSED_ELSEWHERE = [
    *("a%", "a%20b", "a\\b"),  # MLflow's file store
    *("it's", 'a"b', "a`b"),  # filters
    *("a@b", "a?b", "a#b", "a\nb", "a\tb", "a\n"),  # addresses
    *(" a", "a ", "a\u2028b", "a\x00b"),  # people who type it
    "n" * 257,  # databases
]

BAD = [*REFUSED_BY_MLFLOW, *REFUSED_ELSEWHERE]
