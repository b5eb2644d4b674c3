"""The page: everything in it, nothing of the data taken as markup."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from mealrec.evaluation.report import Frame, ReportData, Strip, ViewerPage, render

REPORT = {
    "metrics": {"test": {"mealrec": {"hr@10": 0.31, "ndcg@10": 0.2}, "markov": {"hr@10": 0.2, "ndcg@10": 0.1}}},
    "intervals": {"ndcg@10": {"markov": {"mean": 0.1, "low": 0.05, "high": 0.15}}},
    "slices": [{"slice": "history up to 5", "viewers": 3, "mealrec": 0.5, "markov": 0.1}],
    "viewers": 3,
    "items": 9,
    "data": {"sequences": 1, "items": 2, "features": 3},
    "tokens": "frames",
    "salience": {"auc": 0.875, "viewer_auc": 0.75, "videos": 8, "frames": 64},
    "curves": [
        {"epoch": 1, "stage": "warmup", "loss_next_item": 3.0, "ndcg@10": 0.1},
        {"epoch": 2, "stage": "joint", "loss_next_item": 2.0, "ndcg@10": 0.2},
    ],
}


def test_the_page_shows_figures_plots_and_strips_and_escapes_titles(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(jpeg, "JPEG")
    frames = [Frame(0.25, 500, jpeg.getvalue()), Frame(0.75, 1500, None)]
    strip = Strip("v1", "<script>alert('x')</script>", frames)
    data = ReportData("MealRec: <b>x</b>", REPORT, [ViewerPage("u<1>", [strip], [Strip("v2", "plain", [], "rank 1")])])
    text = render(data, tmp_path / "report.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "u&lt;1&gt;" in text
    assert text.count("<svg") == 3 and "data:image/jpeg;base64," in text
    assert "0.3100" in text and "+0.0500" in text and "0.875" in text and "1.5 s" in text
    assert "known by its ID alone" in text
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_the_same_figures_give_the_same_page(tmp_path: Path) -> None:
    data = ReportData("MealRec", REPORT, [])
    assert render(data, tmp_path / "a").read_bytes() == render(data, tmp_path / "b").read_bytes()
