"""What is said of a compiled pipeline although nothing is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ferry.pipelines.catalogue import find, stages
from ferry.pipelines.cluster.advice import advice
from ferry.pipelines.cluster.profile import load_profile, profile_of

PROFILES = Path(__file__).resolve().parents[2] / "manifests" / "profiles"


def said(profile, name="clup"):
    return advice(profile, stages(find(name)))


@pytest.mark.parametrize("values", [None, {}, {"images": {"pull_policy": "Always"}}])
def test_images_without_a_registry_are_only_found_where_they_were_built(values):
    (sentence,) = said(None if values is None else profile_of(values, Path()))
    assert sentence.startswith("Images are called ferry/ferry-...")


def test_a_registry_is_enough_wherever_it_is_named(monkeypatch, tmp_path):
    assert said(profile_of({"images": {"registry": "r.example.org/ml"}}, tmp_path)) == []
    (tmp_path / "lock.json").write_text('{"cpu": "r/ferry-cpu@sha256:%s"}' % ("0" * 64))
    assert said(profile_of({"images": {"lock": "lock.json"}}, tmp_path)) == []
    monkeypatch.setenv("FERRY_IMAGE_REGISTRY", "r.example.org/ml")
    assert said(None) == []


@pytest.mark.parametrize(
    ("profile", "name", "secret"), [("source", "clup", "ferry-source-s3"), ("cpu", "source", "ferry-s3")]
)
def test_a_profile_whose_keys_no_stage_gets_is_probably_another_pipelines(monkeypatch, profile, name, secret):
    monkeypatch.setenv("FERRY_IMAGE_REGISTRY", "r.example.org/ml")
    (sentence,) = [one for one in said(load_profile(PROFILES / f"{profile}.yaml"), name) if "secrets" in one]
    assert secret in sentence
    assert "is it the right profile?" in sentence


@pytest.mark.parametrize(("profile", "name"), [("source", "source"), ("cpu", "clup"), ("gpu", "clup")])
def test_profiles_that_fit_say_nothing(monkeypatch, profile, name):
    monkeypatch.setenv("FERRY_IMAGE_REGISTRY", "r.example.org/ml")
    assert said(load_profile(PROFILES / f"{profile}.yaml"), name) == []
