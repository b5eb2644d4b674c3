"""Rules that keep the rooms apart, beyond what import-linter sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [p for folder in ("mealrec", "flows", "spark_jobs", "infra") for p in (ROOT / folder).rglob("*.py")]


def test_the_numeric_core_runs_with_torch_and_numpy_alone() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        assert top not in BLOCKED, name\n"
        "BLOCKED = {'pydantic', 'pyarrow', 'deltalake', 'ray', 'mlflow', 'prefect', 'pyspark', 'pandas', 'safetensors'}\n"
        "sys.meta_path.insert(0, Block())\n"
        "import mealrec.model.mealrec, mealrec.model.inference, mealrec.model.baselines\n"
        "import mealrec.training.step, mealrec.training.loop, mealrec.evaluation.metrics, mealrec.evaluation.ranking\n"
        "import mealrec.data.packed, mealrec.data.batches\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_files_stay_short_enough_to_read() -> None:
    assert {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 350} == {}
