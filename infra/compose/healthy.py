"""Exit status 0 when an address answers a GET with 200, for health checks; PREFECT_API_AUTH_STRING is sent where it is set."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "start"))
from foreground import answers

if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1], os.environ.get("PREFECT_API_AUTH_STRING")))
