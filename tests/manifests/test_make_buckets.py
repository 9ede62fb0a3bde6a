"""The script of the bucket jobs, in this process: what it asks of a store, and of MinIO's administration."""

import importlib.util
import json

import pytest
from minio.error import S3Error

from .built import MANIFESTS, secrets

SCRIPT = MANIFESTS / "services" / "store" / "make_buckets.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("make_buckets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Store:
    def __init__(self, there):
        self.buckets, self.code = there, "BucketAlreadyOwnedByYou"

    def make_bucket(self, bucket_name):
        if bucket_name in self.buckets or self.code == "AccessDenied":
            raise S3Error(None, self.code, "", "", "", "")
        self.buckets.append(bucket_name)


class Administration:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *words, **named: self.calls.append((name, words, named))


def test_buckets_that_are_there_stay_and_other_errors_end_it(script, capsys):
    store = Store(["old"])
    script.make_buckets(store, ["old", "new"])
    assert store.buckets == ["old", "new"]
    assert capsys.readouterr().out == "bucket old\nbucket new\n"
    store.code = "AccessDenied"
    with pytest.raises(S3Error):
        script.make_buckets(store, ["other"])


def test_minio_gets_the_users_of_the_identities_with_rights_to_their_bucket_alone(script, capsys):
    identities = json.loads(secrets()["ferry", "store-identities"]["s3.json"])["identities"]
    admin = Administration()
    script.make_users(admin, identities)
    names = [identity["name"] for identity in identities]
    assert names == ["admin", "targets", "mlflow"]
    assert [name for name, _, _ in admin.calls] == ["policy_add", "user_add", "policy_set"] * 2
    for number, (name, bucket) in enumerate([("targets", "ferry-targets"), ("mlflow", "ferry-mlflow")]):
        added, user, given = admin.calls[3 * number : 3 * number + 3]
        (keys,) = identities[names.index(name)]["credentials"]
        assert user[1] == (keys["accessKey"], keys["secretKey"])
        assert (given[1], given[2]) == ((name,), {"user": keys["accessKey"]})
        resources = {place for one in added[2]["policy"]["Statement"] for place in one["Resource"]}
        assert resources == {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}
        assert not [action for one in added[2]["policy"]["Statement"] for action in one["Action"] if "*" in action]
    assert "secret" not in capsys.readouterr().out


def test_an_action_that_minio_has_no_word_for_is_refused(script):
    with pytest.raises(KeyError):
        script.policy(["Admin"])
