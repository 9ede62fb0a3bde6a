"""The one rule for names of models, against MLflow's own rules."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from ferry.common.errors import UserError
from ferry.registry.names import LONGEST_NAME, check_model_name
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import _parse_model_uri
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel
from mlflow.utils.validation import _validate_model_name

from .names import BAD, GOOD, REFUSED_BY_MLFLOW


@pytest.mark.parametrize("name", GOOD)
def test_a_good_name_is_good_everywhere(name):
    check_model_name(name)
    _validate_model_name(name)
    assert _parse_model_uri(f"models:/{name}@champion").name == name
    assert _parse_model_uri(f"models:/{name}/1").name == name


@pytest.mark.parametrize("name", [*BAD, ""])
def test_a_bad_name_is_refused_with_the_rule(name):
    with pytest.raises(UserError, match="Expected `model_name` to be 1 to 256 printable characters without") as caught:
        check_model_name(name)
    assert str(caught.value).endswith("Choose one such as ferry-clup.")


@pytest.mark.parametrize("name", REFUSED_BY_MLFLOW)
def test_what_mlflow_refuses_is_among_the_bad_ones(name):
    with pytest.raises(MlflowException):
        _validate_model_name(name)


def test_no_name_of_few_signs_is_taken_that_mlflow_refuses_or_reads_as_another():
    signs = [chr(code) for code in range(0x20, 0x7F)]
    taken = []
    for name in [f"{one}{two}" for one in [*signs, ""] for two in signs] + [f"a{sign}b" for sign in signs]:
        try:
            check_model_name(name)
        except UserError:
            continue
        _validate_model_name(name)
        assert _parse_model_uri(f"models:/{name}@champion").name == name
        taken.append(name)
    assert len(taken) > 5000


def test_the_longest_name_is_what_the_databases_hold():
    assert SqlRegisteredModel.__table__.columns["name"].type.length == LONGEST_NAME


def test_the_rule_is_there_without_mlflow():
    code = "import json, sys, ferry.registry.names\nprint(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlflow", "torch"} & set(json.loads(found.stdout))
