"""The base job template of the Kubernetes pool, against the one that Prefect itself ships for its Kubernetes worker."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import jsonschema

from tests.integration.servers import ROOT

TEMPLATE: dict[str, Any] = json.loads((ROOT / "infra" / "prefect" / "kubernetes-pool.json").read_text())
SHIPPED = files("prefect.server.api.collections_data.views") / "aggregate-worker-metadata.json"
OWN: dict[str, Any] = json.loads(SHIPPED.read_text())["prefect-kubernetes"]["kubernetes"][
    "default_base_job_configuration"
]


def variables(part: Any) -> set[str]:
    return set(re.findall(r"\{\{ ?(\w+) ?\}\}", json.dumps(part)))


def test_every_variable_that_the_job_uses_is_declared_and_every_declared_one_is_used() -> None:
    assert variables(TEMPLATE["job_configuration"]) == set(TEMPLATE["variables"]["properties"])


def test_the_workers_own_settings_and_variables_are_all_there_with_their_types() -> None:
    assert set(TEMPLATE["job_configuration"]) == set(OWN["job_configuration"])
    theirs, ours = OWN["variables"]["properties"], TEMPLATE["variables"]["properties"]
    left_out = {"cpu_limit"}  # a job that may use idle cores ends sooner
    assert set(theirs) - set(ours) == left_out
    assert {n: ours[n].get("type") for n in ours if n in theirs} == {
        n: theirs[n].get("type") for n in ours if n in theirs
    }


def test_the_manifest_is_one_job_without_retries_root_or_token() -> None:
    manifest = TEMPLATE["job_configuration"]["job_manifest"]
    assert {k: manifest[k] for k in ("apiVersion", "kind")} == {"apiVersion": "batch/v1", "kind": "Job"}
    pod = manifest["spec"]["template"]["spec"]
    assert manifest["spec"]["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    mounted = {m["name"] for m in pod["containers"][0]["volumeMounts"]}
    assert mounted == {v["name"] for v in pod["volumes"]}


def test_the_form_takes_an_image_and_refuses_a_wrong_pull_policy() -> None:
    schema = TEMPLATE["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: p["default"] for name, p in schema["properties"].items() if "default" in p}
    checker = jsonschema.Draft202012Validator(schema)
    assert checker.is_valid(defaults | {"image": "mealrec:1"})
    assert not checker.is_valid(defaults), "there is no image that would be right for everybody"
    assert not checker.is_valid(defaults | {"image": "mealrec:1", "image_pull_policy": "Sometimes"})
