"""Make the buckets named as arguments in the object store that the AWS_* variables point to; those that are there stay."""

from __future__ import annotations

import sys

import boto3


def main(names: list[str]) -> None:
    store = boto3.client("s3")
    there = {bucket["Name"] for bucket in store.list_buckets()["Buckets"]}
    for name in names:
        if name not in there:
            store.create_bucket(Bucket=name)
        print(f"bucket {name} is there")


if __name__ == "__main__":
    main(sys.argv[1:])
