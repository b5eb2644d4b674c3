"""Known vulnerabilities in the pinned packages: asks an advisory service about every line of constraints.txt.

    .venv/bin/python infra/release/audit.py [--unreachable-ok]

Exit status 0: none, or only ones that allowed.txt lists with a reason; 1: others were found, or the service was out of reach (0
then with --unreachable-ok, for a CI without internet); 2: allowed.txt is wrong.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "https://api.osv.dev/v1/query"
CONNECT_S = 5.0
UNREACHABLE = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "NameResolutionError", "ServiceError", "ProxyError")


def allowed(path: Path) -> dict[str, str]:
    """Advisory id -> reason, from lines `ID reason`; # begins a comment. Raises ValueError naming a line without a reason."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        advisory, _, reason = text.partition(" ")
        if text and not reason.strip():
            raise ValueError(f"{path}:{number}: {advisory} has no reason: write `ID reason`")
        if text:
            found[advisory] = reason.strip()
    return found


def findings(report: dict[str, Any]) -> list[tuple[str, str, set[str]]]:
    """(package and version, advisory id, all its names) of pip-audit's JSON."""
    return [
        (f"{package['name']} {package.get('version', '?')}", found["id"], {found["id"], *found.get("aliases", [])})
        for package in report["dependencies"]
        for found in package.get("vulns", [])
    ]


def answers(service: str) -> bool:
    """Whether anything listens there, asked before pip-audit, which tries for long. A proxy is left to pip-audit."""
    if getproxies():
        return True
    address = urlsplit(service)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((str(address.hostname), port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def ask(constraints: Path, service: str, timeout_s: float) -> dict[str, Any] | None:
    """pip-audit's report; None when the service could not be reached in time. Raises RuntimeError with what else went wrong."""
    if not answers(service):
        return None
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--osv-url", service, "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return None
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        if any(word in done.stderr for word in UNREACHABLE):
            return None
        raise RuntimeError(f"pip-audit ended with status {done.returncode}: {done.stderr[-2000:]}") from None
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    parser.add_argument("--allowed", type=Path, default=Path(__file__).with_name("allowed.txt"))
    parser.add_argument("--service", default=SERVICE, help="address of an OSV service (default %(default)s)")
    parser.add_argument("--unreachable-ok", action="store_true", help="status 0 when the service cannot be reached")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for the whole audit (default %(default)s)")
    given = parser.parse_args()
    try:
        reasons = allowed(given.allowed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = ask(given.constraints, given.service, given.timeout)
    if report is None:
        print(f"could not reach the advisory service {given.service}: nothing was checked")
        return 0 if given.unreachable_ok else 1
    unknown = 0
    for package, advisory, names in findings(report):
        reason = next((reasons[name] for name in sorted(names) if name in reasons), None)
        unknown += reason is None
        print(f"{package}: {advisory} {f'allowed: {reason}' if reason else 'NOT ALLOWED'}")
    print(f"{len(report['dependencies'])} packages checked, {unknown} advisories that nobody has looked at")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
