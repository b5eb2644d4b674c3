"""The compose file and the images, as far as they can be checked without a container engine: their structure, and that what
they copy and run is there and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mealrec.features.decoder import READY

ROOT = Path(__file__).resolve().parents[2]
IMAGES = sorted((ROOT / "infra" / "images").glob("*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY")


def instructions(image: Path, name: str) -> list[str]:
    text = re.sub(r"\\\n", " ", image.read_text())
    return [line.partition(" ")[2].strip() for line in text.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]["test"]
    ends_by_itself = SERVICES[name].get("restart") == "no"
    assert (check == ["NONE"]) == ends_by_itself


def test_every_published_port_is_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) >= 4 and [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_secret_and_no_default_for_one_is_written_down() -> None:
    found = [
        (name, variable, value)
        for name, service in SERVICES.items()
        for variable, value in service.get("environment", {}).items()
        if SECRET.search(variable)
    ]
    assert len(found) >= 10
    assert [f for f in found if not re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", f[2])] == []
    assert all(":?" in secret["file"] for secret in COMPOSE["secrets"].values())
    uris = re.findall(r"\w+://[^\s\"']+", (ROOT / "infra" / "compose.yaml").read_text())
    assert uris and not [uri for uri in uris if re.search(r"://[^/]*:[^/]*@", uri)]


def test_a_server_that_listens_wide_asks_who_is_there() -> None:
    wide = {name for name, service in SERVICES.items() if "0.0.0.0" in service.get("command", [])}
    assert wide == {"prefect", "mlflow"}
    assert "PREFECT_SERVER_API_AUTH_STRING" in SERVICES["prefect"]["environment"]
    assert "--auth" in SERVICES["mlflow"]["command"]


def test_what_the_services_run_and_mount_is_in_the_repository() -> None:
    scripts = [w for s in SERVICES.values() for w in (*s.get("command", []), *s["healthcheck"]["test"]) if "/" in w]
    scripts = [word for word in scripts if word.startswith("infra/")]
    mounts = [v.partition(":")[0] for s in SERVICES.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert scripts and mounts
    assert [p for p in scripts if not (ROOT / p).is_file()] == []
    assert [p for p in mounts if not (ROOT / "infra" / p).is_file()] == []


def test_every_flag_that_a_service_gives_is_one_of_its_script() -> None:
    for service in SERVICES.values():
        words = service.get("command", [])
        if len(words) > 1 and words[0] == "python" and words[1].startswith("infra/start"):
            done = subprocess.run(
                [sys.executable, str(ROOT / words[1]), "--help"], capture_output=True, text=True, check=True, timeout=60
            )
            assert [flag for flag in words if flag.startswith("--") and flag not in done.stdout] == []


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_images_are_pinned_unprivileged_and_installed_with_the_constraints(image: Path) -> None:
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) for base in instructions(image, "FROM"))
    assert instructions(image, "USER")[-1].split(":")[0] not in ("root", "0")
    installs = [part for run in instructions(image, "RUN") for part in run.split("&&") if "pip install" in part]
    assert installs and all("--constraint constraints.txt" in part for part in installs)
    sources = [word for copy in instructions(image, "COPY") for word in copy.split()[:-1]]
    assert sources and [s for s in sources if not (ROOT / s).exists()] == []
    for variable in (*instructions(image, "ENV"), *instructions(image, "ARG")):
        assert not SECRET.search(variable)


def test_service_images_are_pinned() -> None:
    for service in SERVICES.values():
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), service["image"]


def test_the_decoder_image_holds_all_that_the_child_needs(tmp_path: Path) -> None:
    """The files that it copies, laid out as it does, answer a request in a folder of their own."""
    for copy in instructions(ROOT / "infra" / "images" / "decoder.Dockerfile", "COPY"):
        *sources, target = copy.split()
        for source in sources:
            place = tmp_path / target / Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / source).read_bytes())
    request = b'{"path": "/nowhere.mp4", "frames": 2, "size": 32, "max_pixels": 1000000, "max_seconds": 10, '
    request += b'"audio_rate": 0, "audio_samples": 0}\n'
    done = subprocess.run(
        [sys.executable, "-m", "mealrec.features.decoder_child"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        input=request,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(READY) and b'"ok": false' in done.stdout
