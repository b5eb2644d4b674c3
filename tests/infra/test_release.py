"""The dependency audit, with the real pip-audit against an advisory service of our own, and the bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
AUDIT = ROOT / "infra" / "release" / "audit.py"


class Advisories(BaseHTTPRequestHandler):
    """Knows one vulnerability: of the package `leaky`."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        vulnerable = {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-0001"], "summary": "leaks"}
        vulnerable |= {"affected": [{"package": {"name": "leaky", "ecosystem": "PyPI"}, "versions": ["1.0"]}]}
        body = json.dumps({"vulns": [vulnerable]} if asked["package"]["name"] == "leaky" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    server.server_close()


def audit(folder: Path, service: str, pins: str, allowed: str, *more: str) -> subprocess.CompletedProcess[str]:
    (folder / "pins.txt").write_text(pins)
    (folder / "allowed.txt").write_text(allowed)
    files = ["--constraints", str(folder / "pins.txt"), "--allowed", str(folder / "allowed.txt")]
    return subprocess.run(
        [sys.executable, str(AUDIT), *files, "--service", service, *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_vulnerability_that_nobody_looked_at_fails_and_one_with_a_reason_passes(service: str, tmp_path: Path) -> None:
    pins = "sound==2.0\nleaky==1.0\n"
    found = audit(tmp_path, service, pins, "# nothing yet\n")
    assert found.returncode == 1 and "leaky 1.0: PYSEC-2026-1 NOT ALLOWED" in found.stdout, found.stderr
    by_alias = audit(tmp_path, service, pins, "CVE-2026-0001 we do not call that function\n")
    assert by_alias.returncode == 0 and "allowed: we do not call that function" in by_alias.stdout
    clean = audit(tmp_path, service, "sound==2.0\n", "")
    assert clean.returncode == 0 and "1 packages checked, 0 advisories" in clean.stdout


def test_a_service_out_of_reach_is_said_plainly_and_passes_only_where_that_was_asked_for(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1/query"
    for more, status in (((), 1), (("--unreachable-ok",), 0)):
        done = audit(tmp_path, nobody, "sound==2.0\n", "", *more)
        assert (done.returncode, "could not reach the advisory service" in done.stdout) == (status, True), done.stderr


def test_an_allowed_advisory_without_a_reason_is_refused(service: str, tmp_path: Path) -> None:
    done = audit(tmp_path, service, "sound==2.0\n", "# a comment\nCVE-2026-0001\n")
    assert done.returncode == 2 and "allowed.txt:2: CVE-2026-0001 has no reason" in done.stderr


@pytest.mark.night
def test_the_bill_of_materials_names_our_direct_dependencies_with_their_pins(tmp_path: Path) -> None:
    # its own environment is made anew, and the project's is taken as it is
    folders = [f"BIN={Path(sys.executable).parent}", f"BOM={tmp_path}/bom", f"DIST={tmp_path}/dist"]
    done = subprocess.run(
        ["make", "--old-file=setup", "sbom", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bill = json.loads((tmp_path / "dist" / "mealrec.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["name"] == "mealrec"
    named = {normal(part["name"]): part.get("version") for part in bill["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {normal(re.split(r"[\[=<>;\s]", line)[0]) for line in project["dependencies"] if "platform" not in line}
    assert len(asked) > 20
    assert {name for name in asked if not named.get(name)} == set()
    assert named["torch"] == "2.13.0"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
