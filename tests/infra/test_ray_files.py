"""The files for Ray clusters elsewhere, as far as they can be checked without one: Ray's own schema for its launcher, and what
the operator asks of its resources. KubeRay's published schemas are in no package that we have."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import Draft7Validator
from ray.autoscaler._private.util import prepare_config

from mealrec.stages import STAGES

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "ray"
OBJECTS = {"raycluster.yaml": "RayCluster", "rayjob.yaml": "RayJob"}


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return loaded


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = document(name)["spec"]
    return spec.get("rayClusterSpec", spec)  # type: ignore[no-any-return]


def groups(name: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def test_the_launcher_file_fits_the_schema_of_the_installed_ray() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    validator = Draft7Validator(schema)
    assert [e.message for e in validator.iter_errors(document("cluster.yaml"))] == []
    filled = prepare_config(document("cluster.yaml"))  # what `ray up` makes of it
    assert [e.message for e in validator.iter_errors(filled)] == []
    wrong = document("cluster.yaml") | {"head_node": {}}
    assert [e.message for e in validator.iter_errors(wrong)] != [], "the schema refuses what it does not know"


@pytest.mark.parametrize("name", OBJECTS)
def test_a_kubernetes_file_has_the_fields_that_the_operator_requires(name: str) -> None:
    found = document(name)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", OBJECTS[name])
    assert found["metadata"]["name"]
    assert cluster_spec(name)["rayVersion"] == ray.__version__
    for group in groups(name):
        assert isinstance(group["rayStartParams"], dict)
        assert all(isinstance(v, str) for v in group["rayStartParams"].values()), "the operator takes strings alone"
        [container] = group["template"]["spec"]["containers"]
        assert container["image"] and container["resources"]["limits"] == container["resources"]["requests"]
        mounted = {m["name"] for m in container["volumeMounts"]}
        assert mounted == {v["name"] for v in group["template"]["spec"]["volumes"]}
    for group in groups(name)[1:]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", OBJECTS)
def test_nobody_reaches_a_cluster_on_kubernetes_without_a_token_and_no_container_is_privileged(name: str) -> None:
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}
    assert cluster_spec(name)["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
    for group in groups(name):
        for container in group["template"]["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["runAsNonRoot"] is True


def test_the_launcher_turns_the_token_on_and_keeps_the_dashboard_to_itself() -> None:
    found = document("cluster.yaml")
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert "--env RAY_AUTH_TOKEN_PATH=/run/mealrec/token" in found["docker"]["run_options"]
    assert "/run/mealrec/token" in found["file_mounts"]
    [head] = [c for c in found["head_start_ray_commands"] if "--head" in c]
    assert "--dashboard-host=127.0.0.1" in head


def test_the_job_runs_a_stage_that_there_is() -> None:
    words = shlex.split(document("rayjob.yaml")["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "mealrec.cli", "stage"] and words[4] in STAGES
