"""The catalogue of breakages fits the code that it breaks: found by `make test`, and not half an hour into `make broken`."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest

from tests.breakages import LISTS, ROOT, Breakage, catalogue

ALL = catalogue()


@pytest.mark.parametrize("part", sorted(path.stem for path in LISTS.glob("*.toml")))
def test_what_is_broken_is_there_once_and_still_is_a_program_when_broken(part: str) -> None:
    for one in ALL:
        if one.part == part:
            text = (ROOT / one.file).read_text(encoding="utf-8")
            assert one.old != one.new, one.claim
            ast.parse(one.applied(text), one.file)


def test_every_test_that_has_to_notice_is_there() -> None:
    for one in ALL:
        assert one.tests, one.claim
        for test in one.tests:
            file, _, name = test.partition("::")
            function = re.escape(name.partition("[")[0])
            assert re.search(rf"^def {function}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


def test_no_claim_and_no_breakage_is_there_twice() -> None:
    claims = Counter(one.claim for one in ALL)
    breakages = Counter((one.file, one.old, one.new) for one in ALL)
    assert [what for what, times in (claims + breakages).items() if times > 1] == []


def test_text_that_is_absent_or_there_twice_is_refused_by_name() -> None:
    one = Breakage("part", "a claim", "a.py", "x = 1", "x = 2", ("t",))
    assert one.applied("x = 1\n") == "x = 2\n"
    for text, times in (("y", 0), ("x = 1; x = 1", 2)):
        with pytest.raises(ValueError, match=f"a claim: `old` is {times} times in a.py"):
            one.applied(text)


def test_words_choose_by_claim_file_and_test() -> None:
    one = Breakage("part", "A claim", "a.py", "x", "y", ("tests/t.py::test_it",))
    assert all(one.is_meant(words) for words in ([], ["claim"], ["A.PY", "part"], ["test_it"]))
    assert not one.is_meant(["claim", "other"])
