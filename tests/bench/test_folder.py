"""Any supported folder becomes the packed dataset that the pipeline's rules give."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.folder import data_digest, open_folder
from mealrec.data.packed import Packed
from mealrec.features.encoders.protocol import Title
from mealrec.sources.landing import SourceError
from tests.conftest import write_packed

TITLES = {1: "A red kite over hills", 2: "Cooking noodles at night", 3: "", 4: "Kite", 5: "Two dogs, one ball"}

# out of order, with a repeat; seconds
ROWS = ["c\tu2\t1\t50", "a\tu1\t5\t30", "b\tu1\t5\t10", "b\tu1\t5\t40", "a\tu2\t1\t20", "d\tu1\t1\t60", "b\tu2\t1\t5"]


def quiet(line: str) -> None:
    del line


def recbole(root: Path, rows: list[str], *, titles: bool = True) -> Path:
    root.mkdir(parents=True)
    header = "item_id:token\tuser_id:token\trating:float\ttimestamp:float"
    (root / "unseen.inter").write_text("\n".join([header, *rows]) + "\n")
    if titles:
        lines = ["item_id:token\ttitle:token_seq", "a\tA red kite over hills", "b\t", "c\tCooking noodles at night"]
        (root / "unseen.item").write_text("\n".join(lines) + "\n")
    return root


def ninerec(root: Path) -> Path:
    root.mkdir()
    (root / "sequential_data.txt").write_text("7 4 1 2\n10 5 3 1 5\n")
    (root / "Tiny_item.csv").write_text("".join(f'{n},,"{title}"\n' for n, title in TITLES.items()))
    return root


def microlens(root: Path, pairs: str, text: str) -> Path:
    root.mkdir()
    (root / f"Tiny_pairs.{pairs}").write_text(text)
    (root / "Tiny_titles.csv").write_text("item,title\n" + "".join(f'{n},"{title}"\n' for n, title in TITLES.items()))
    return root


class Counting:
    """Stands in for the title encoder, which takes 10 ms a title: one token a word, filled with the title's length."""

    seen: list[str]

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def encode(self, titles: list[str]) -> list[Title]:
        self.seen.extend(titles)
        full = [np.full((min(len(t.split()), self.tokens), 384), len(t), np.float16) for t in titles]
        return [Title(rows[0] * 2, rows) for rows in full]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles that were encoded, by an encoder that costs nothing."""
    monkeypatch.setattr(Counting, "seen", [], raising=False)
    monkeypatch.setattr("mealrec.features.encoders.text.MiniLM", Counting)
    return Counting.seen


def by_viewer(data: Packed) -> dict[str, list[str]]:
    ids, parts = data.item_ids(), np.split(np.asarray(data.sequence), np.asarray(data.offsets[1:-1]))
    users = data.user_ids(range(data.viewers))
    return {u: [ids[i - 1] for i in part] for u, part in zip(users, parts, strict=True)}


def test_an_unseen_recbole_set_is_sorted_and_first_occurrences_kept(tmp_path: Path) -> None:
    data = open_folder(recbole(tmp_path / "unseen", ROWS), tmp_path / "cache", tokens=4, say=quiet)
    assert data.item_ids() == ["a", "b", "c", "d"] and data.user_ids(range(2)) == ["u1", "u2"]
    assert data.sequence.tolist() == [2, 1, 4, 2, 1, 3]
    assert data.offsets.tolist() == [0, 3, 6]
    assert data.target(0, "test") == 4 and data.target(0, "valid") == 1
    assert data.content.train_count().tolist() == [0, 0, 2, 0, 0]
    # titles went through the real encoder: two have one, order and masks kept
    assert data.content.available().tolist()[1:] == [[True, False, True], [False] * 3, [True, False, True], [False] * 3]
    assert data.content.arrays["frame_mask"].sum(1).tolist() == [0, 4, 0, 4, 0]
    norms = np.linalg.norm(data.content.arrays["text"].astype(float), axis=1)
    assert norms[[1, 3]] == pytest.approx(1, abs=1e-2) and norms[[0, 2, 4]].tolist() == [0, 0, 0]
    source = data.meta["source"]
    assert (source["name"], source["layout"], source["interactions"]) == ("unseen", "recbole", 7)
    assert not source["synthetic_time"] and sorted(source["files"]) == ["unseen.inter", "unseen.item"]


def test_the_order_of_a_timed_file_does_not_matter(tmp_path: Path, seen: list[str]) -> None:
    rng = random.Random(5)
    rows = [f"i{rng.randrange(20)}\tu{rng.randrange(9)}\t1\t{time}" for time in range(200)]
    first = open_folder(recbole(tmp_path / "a", rows), tmp_path / "cache", say=quiet)
    rng.shuffle(rows)
    other = open_folder(recbole(tmp_path / "b", rows), tmp_path / "cache", say=quiet)
    expected: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda r: int(r.split("\t")[3])):
        item, user, *_ = row.split("\t")
        if item not in expected.setdefault(user, []):
            expected[user].append(item)
    assert by_viewer(first) == by_viewer(other) == expected


def test_equal_times_keep_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [f"i{n}\tu\t1\t5" for n in (12, 3, 7, 1, 10)]
    data = open_folder(recbole(tmp_path / "ties", rows, titles=False), tmp_path / "cache", say=quiet)
    assert by_viewer(data) == {"u": ["i12", "i3", "i7", "i1", "i10"]}


def test_a_ninerec_set_keeps_its_sequences_and_titles(tmp_path: Path, seen: list[str]) -> None:
    data = open_folder(ninerec(tmp_path / "tiny"), tmp_path / "cache", tokens=3, say=quiet)
    assert by_viewer(data) == {"u10": ["v5", "v3", "v1"], "u7": ["v4", "v1", "v2"]}
    assert data.item_ids() == ["v1", "v2", "v3", "v4", "v5"]
    arrays = data.content.arrays
    assert arrays["visual"].shape == (6, 3, 384) and arrays["visual"].dtype == np.float16
    assert arrays["frame_mask"].sum(1).tolist() == [0, 3, 3, 0, 1, 3]  # "Kite" is one word, 3 has no title
    assert arrays["position"][1] == pytest.approx([0, 1 / 3, 2 / 3]) and arrays["position"][4].tolist() == [0, 0, 0]
    assert arrays["visual"][4, :, 0].tolist() == [4, 0, 0] and arrays["text"][4, 0] == 8
    assert arrays["times"].max() == -1 and arrays["audio"].shape == (6, 3, 0)
    assert data.meta["source"]["synthetic_time"] and data.meta["tokens"] == "title"


def test_microlens_is_read_from_sequences_or_from_timestamps(tmp_path: Path, seen: list[str]) -> None:
    untimed = microlens(tmp_path / "untimed", "tsv", "2\t5 1 3\n1\t2 4\n")
    data = open_folder(untimed, tmp_path / "cache", say=quiet)
    assert by_viewer(data) == {"u1": ["v2", "v4"], "u2": ["v5", "v1", "v3"]}
    start = 1_700_000_000_000
    lines = [f"2,5,{start + 9}", f"1,4,{start + 2}", f"2,1,{start + 3}", f"1,2,{start + 1}", f"2,5,{start}"]
    timed = microlens(tmp_path / "timed", "csv", "user,item,timestamp\n" + "\n".join(lines) + "\n")
    data = open_folder(timed, tmp_path / "cache", say=quiet)
    assert by_viewer(data) == {"u1": ["v2", "v4"], "u2": ["v5", "v1"]}


def test_the_second_opening_encodes_nothing(tmp_path: Path, seen: list[str]) -> None:
    source, said = ninerec(tmp_path / "tiny"), list[str]()
    first = open_folder(source, tmp_path / "cache", say=said.append)
    assert len(seen) == 4 and "titles encoded: 4 of 4" in said
    said.clear()
    assert open_folder(source, tmp_path / "cache", say=said.append).root == first.root
    assert len(seen) == 4 and said == [f"tiny: packed before, opening {first.root.name}"]
    assert open_folder(source, tmp_path / "cache", tokens=2, say=quiet).root != first.root  # another dataset
    assert len(seen) == 8
    (source / "Tiny_item.csv").write_text("1,,Changed\n")
    assert open_folder(source, tmp_path / "cache", say=quiet).root != first.root
    assert seen[8:] == ["Changed"]


def test_a_digest_is_of_what_is_in_the_data_and_not_of_where_it_lies(tmp_path: Path, seen: list[str]) -> None:
    one = open_folder(ninerec(tmp_path / "tiny"), tmp_path / "cache", say=quiet)
    (tmp_path / "elsewhere").mkdir()
    source = ninerec(tmp_path / "elsewhere" / "tiny")
    assert data_digest(open_folder(source, tmp_path / "other", say=quiet)) == data_digest(one)
    assert data_digest(open_folder(one.root, tmp_path / "cache", say=quiet)) == data_digest(one)
    (source / "Tiny_item.csv").write_text("1,,Changed\n")
    assert data_digest(open_folder(source, tmp_path / "other", say=quiet)) != data_digest(one)
    packed = write_packed(tmp_path / "packed")  # nobody knows from which files
    before = data_digest(packed)
    np.save(packed.root / "visual.npy", np.load(packed.root / "visual.npy") + 1)
    assert data_digest(Packed.open(packed.root)) != before


def test_a_half_built_folder_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    source, cache = ninerec(tmp_path / "tiny"), tmp_path / "cache"

    class Dies(Counting):
        def encode(self, titles: list[str]) -> list[Title]:
            raise KeyboardInterrupt

    monkeypatch.setattr("mealrec.features.encoders.text.MiniLM", Dies)
    with pytest.raises(KeyboardInterrupt):
        open_folder(source, cache, say=quiet)
    assert [p.suffix for p in cache.iterdir()] == [".building"]
    monkeypatch.setattr("mealrec.features.encoders.text.MiniLM", Counting)
    (next(cache.iterdir()) / "stray.npy").write_text("left by the run that died")
    data = open_folder(source, cache, say=quiet)
    assert list(cache.iterdir()) == [data.root] and not (data.root / "stray.npy").exists()


def test_a_set_without_any_title_has_no_width(tmp_path: Path, seen: list[str]) -> None:
    data = open_folder(recbole(tmp_path / "bare", ROWS, titles=False), tmp_path / "cache", tokens=4, say=quiet)
    assert data.content.dims == {"items": 4, "frames": 4, "visual_dim": 0, "audio_dim": 0, "text_dim": 0}
    assert not data.content.available().any() and not seen


def test_a_temporal_split_cuts_everybody_at_the_same_times(tmp_path: Path) -> None:
    # times 0..100 s: validation from 80 s, test from 90 s
    rows = ["a\tu1\t1\t0", "b\tu1\t1\t79", "c\tu1\t1\t80", "d\tu1\t1\t89", "e\tu1\t1\t90", "f\tu1\t1\t100"]
    rows += ["a\tu2\t1\t10", "b\tu2\t1\t95"]  # nothing in validation
    rows += ["c\tu3\t1\t85", "a\tu3\t1\t99"]  # no history before validation
    rows += ["d\tu4\t1\t91", "b\tu4\t1\t92"]  # no history before test
    rows += ["e\tu5\t1\t1", "f\tu5\t1\t2"]  # trains only
    random.Random(1).shuffle(rows)
    source = recbole(tmp_path / "timed", rows, titles=False)
    data = open_folder(source, tmp_path / "cache", protocol="temporal", say=quiet)
    ids = [None, *data.item_ids()]

    def names(viewer: int, split: str) -> list[str | None]:
        return [ids[i] for i in data.history(viewer, split).tolist()]  # type: ignore[arg-type]

    assert [names(v, "train") for v in range(5)] == [["a", "b"], ["a"], [], [], ["e", "f"]]
    assert [v for v in range(5) if data.target_at("valid")[v] >= 0] == [0]
    assert (ids[data.target(0, "valid")], names(0, "valid")) == ("c", ["a", "b"])
    assert [v for v in range(5) if data.target_at("test")[v] >= 0] == [0, 1, 2]
    assert [ids[data.target(v, "test")] for v in range(3)] == ["e", "b", "a"]
    assert [names(v, "test") for v in range(3)] == [["a", "b", "c", "d"], ["a"], ["c"]]
    assert data.content.train_count().tolist() == [0, 2, 1, 0, 0, 1, 1]  # padding, a..f
    assert open_folder(source, tmp_path / "cache", say=quiet).root != data.root


@pytest.mark.parametrize("rows", [["u\ta", "u\tb"], ["u\ta", "w\tb"]])
def test_a_split_that_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path, rows: list[str]) -> None:
    root = tmp_path / "untimed"
    root.mkdir()
    (root / "x.inter").write_text("\n".join(["user_id:token\titem_id:token", *rows]) + "\n")
    with pytest.raises(SourceError, match=r"untimed: the set has an order per viewer but no times"):
        open_folder(root, tmp_path / "cache", protocol="temporal", say=quiet)
    if rows[1].startswith("w"):
        with pytest.raises(SourceError, match="leave-one-out split leaves no viewer a test video"):
            open_folder(root, tmp_path / "cache", say=quiet)
    assert not (tmp_path / "cache").exists()


def test_a_packed_folder_is_opened_as_it_is_without_readers_or_encoders(tmp_path: Path, seen: list[str]) -> None:
    data = open_folder(ninerec(tmp_path / "tiny"), tmp_path / "cache", say=quiet)
    assert open_folder(data.root, tmp_path / "other", say=quiet).root == data.root
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="packed for the leave-one-out split, not for temporal"):
        open_folder(data.root, tmp_path / "other", protocol="temporal", say=quiet)
    script = (
        "import sys; from pathlib import Path\n"
        "for name in ('pyarrow', 'pydantic', 'deltalake', 'sentence_transformers', 'safetensors'): sys.modules[name] = None\n"
        "from mealrec.bench.folder import open_folder\n"
        "print(open_folder(Path(sys.argv[1]), Path('nowhere')).viewers)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(data.root)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_an_unknown_layout_says_what_is_there_and_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "what.parquet").write_text("")
    with pytest.raises(SourceError, match=r"found what\.parquet\. Layouts: ninerec: sequential_data\.txt") as caught:
        open_folder(tmp_path, tmp_path / "cache", say=quiet)
    assert all(f"{name}: " in str(caught.value) for name in ("ninerec", "microlens", "recbole", "packed"))
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\n")
    (tmp_path / "sequential_data.txt").write_text("0 1 2\n")
    with pytest.raises(SourceError, match=r"fits several layouts \(ninerec, recbole\)"):
        open_folder(tmp_path, tmp_path / "cache", say=quiet)
    with pytest.raises(SourceError, match="nowhere is not a folder"):
        open_folder(tmp_path / "nowhere", tmp_path / "cache", say=quiet)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("a\tu1\t1", r"unseen\.inter:3: expected 4 columns, found 3"),
        ("a\tu1\t1\tsoon", r"unseen\.inter:3: expected a timestamp in seconds or milliseconds, found 'soon'"),
        ("\tu1\t1\t5", r"unseen\.inter:3: empty item_id"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: str, complaint: str) -> None:
    source = recbole(tmp_path / "unseen", ["a\tu1\t1\t5", row], titles=False)
    with pytest.raises(SourceError, match=complaint):
        open_folder(source, tmp_path / "cache", say=quiet)
    assert not (tmp_path / "cache").exists()


def test_bili_food_has_its_known_size(real_data: Path, tmp_path: Path, seen: list[str]) -> None:
    data = open_folder(real_data / "bili_food", tmp_path, say=quiet)
    assert (data.viewers, data.items, len(data.sequence)) == (6549, 1579, 39740)
    assert len(seen) == int(data.content.available()[:, 2].sum()) > 1500
    assert json.loads((data.root / "meta.json").read_text())["source"]["interactions"] == 39740
    with pytest.raises(SourceError, match="no times"):
        open_folder(real_data / "bili_food", tmp_path, protocol="temporal", say=quiet)
