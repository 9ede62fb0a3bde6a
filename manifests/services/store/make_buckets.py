"""Makes the buckets of a store and, in MinIO, the users of the file with identities that SeaweedFS reads by itself."""

import json
import os
import sys
from pathlib import Path

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider
from minio.error import S3Error

RIGHTS = {
    "Read": ["s3:GetObject"],
    "Write": ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
    "List": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
}
"""What the actions of SeaweedFS are called in policies of MinIO."""


def policy(actions: list[str]) -> dict:
    """Returns the policy that says what actions such as ``Read:bucket`` say."""
    statements = []
    for action in actions:
        right, _, bucket = action.partition(":")
        place = f"arn:aws:s3:::{bucket}" + ("" if right == "List" else "/*")
        statements.append({"Effect": "Allow", "Action": RIGHTS[right], "Resource": [place]})
    return {"Version": "2012-10-17", "Statement": statements}


def make_buckets(client: Minio, names: list[str]) -> None:
    """Makes the buckets that are not there."""
    for name in names:
        try:
            client.make_bucket(bucket_name=name)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        print(f"bucket {name}")


def make_users(admin: MinioAdmin, identities: list[dict]) -> None:
    """Makes the users of the identities that have less than all rights, each with a policy of its name."""
    for identity in identities:
        if identity["actions"] == ["Admin"]:
            continue  # MinIO has it from its environment
        (keys,) = identity["credentials"]
        admin.policy_add(identity["name"], policy=policy(identity["actions"]))
        admin.user_add(keys["accessKey"], keys["secretKey"])
        admin.policy_set(identity["name"], user=keys["accessKey"])
        print(f"user {identity['name']}")


def main() -> None:
    """Does what the environment says."""
    scheme, _, host = os.environ["S3_ENDPOINT"].partition("://")
    access, secret = os.environ["S3_ACCESS_KEY"], os.environ["S3_SECRET_KEY"]
    where = {"endpoint": host, "secure": scheme == "https", "region": "us-east-1"}
    make_buckets(Minio(access_key=access, secret_key=secret, **where), os.environ["BUCKETS"].split())
    if len(sys.argv) > 1:
        admin = MinioAdmin(credentials=StaticProvider(access_key=access, secret_key=secret), **where)
        make_users(admin, json.loads(Path(sys.argv[1]).read_text())["identities"])


if __name__ == "__main__":
    main()
