"""What our own code never does, held by walking its syntax trees: ruff's rules see calls, not what they are called with."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("mealrec", "flows", "spark_jobs", "infra", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
RUNS_WHAT_IT_READS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
NEVER = {
    "eval": "eval",
    "exec": "exec",
    "__import__": "import by name from outside",
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "yaml.load": "yaml.safe_load instead",
    "yaml.unsafe_load": "yaml.safe_load instead",
    "yaml.full_load": "yaml.safe_load instead",
    "tempfile.mktemp": "a name that somebody else may take",
    "pandas.read_pickle": "pickle",
    "pd.read_pickle": "pickle",
}
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def name_of(node: ast.expr) -> str:
    """A dotted name as it is written; "" for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in RUNS_WHAT_IT_READS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in RUNS_WHAT_IT_READS:
                yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _in_call(node)


def _in_call(call: ast.Call) -> Iterator[str]:
    called, given = name_of(call.func), {k.arg: k.value for k in call.keywords}
    if called in NEVER:
        yield f"{called}: {NEVER[called]}"
    if called in NEEDS:
        keyword, wanted = NEEDS[called]
        value = given.get(keyword)
        if not (isinstance(value, ast.Constant) and value.value is wanted):
            yield f"{called} without {keyword}={wanted}"
    shell = given.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        yield f"{called} with shell="


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.cloudpickle as c",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "subprocess.Popen(command, shell=wanted)",
        "os.system('ls')",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "tempfile.mktemp()",
    ],
)
def test_each_rule_bites(source: str) -> None:
    assert list(faults(source))


def test_what_is_safe_passes() -> None:
    safe = "np.load(p, allow_pickle=False)\ntorch.load(p, weights_only=True)\nmodel.eval()\nsubprocess.run(['a'])\n"
    assert list(faults(safe + "yaml.safe_load(t)\nself.load(p)\n")) == []


def test_our_code_breaks_no_rule() -> None:
    assert len(SOURCES) > 100
    assert [f"{p.relative_to(ROOT)}: {fault}" for p in SOURCES for fault in faults(p.read_text())] == []


def test_no_script_in_another_language_hides_among_them() -> None:
    """Shell and the like would be outside these rules."""
    known = {".py", ".md", ".sql", ".yaml", ".Dockerfile", ".html", ".css", ".js", ".json", ".typed", ".svg", ".txt"}
    others = [
        str(path.relative_to(ROOT))
        for folder in ("mealrec", "flows", "spark_jobs", "infra")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in known and "__pycache__" not in path.parts
    ]
    assert others == []
