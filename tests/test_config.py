"""Settings: wrong keys and values are refused with the valid ones named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from mealrec.config import ConfigError, RunConfig, digest, load, override
from mealrec.presets import PRESETS, preset


def test_an_unknown_key_names_the_valid_ones_at_its_place() -> None:
    with pytest.raises(ConfigError, match=r"train\.epohs: unknown key; valid keys here: average, batch_size"):
        override(RunConfig(), ["train.epohs=3"])
    with pytest.raises(ConfigError, match="'modl' is no section; valid keys: drift, evaluate, features, index, lake"):
        override(RunConfig(), ["modl.width=3"])
    with pytest.raises(ConfigError, match="lakee: unknown key; valid keys here: drift, evaluate"):
        load({"lakee": "x"})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.lr=-1", r"train\.lr: .*greater than 0.*got -1"),
        ("train.workers=many", r"train\.workers: .*valid integer.*got 'many'"),
        ("features.visual=clip", "efficientnet-lite0.*got 'clip'"),
        ("model.heads=3", r"model\.heads=3 must divide model\.width=64"),
        ("sessionize.earliest=yesterday", "got 'yesterday'"),
        ("source.kind=ninerec", r"needs source\.directory"),
        ("train.lr", "write key=value"),
        ("evaluate.ks=[5,20]", "with 10 among them"),
        ("registry.gate_metric=mrr", "ndcg@10"),
        (
            'source.columns={"timestamp": {"zone": "Europe/Bern"}}',
            "timestamp.zone: .*Europe/Berlin or UTC.*got 'Europe/Bern'",
        ),
        ('source.columns={"timestamp": {"zone": "Europe"}}', "no time zone"),
        ('source.columns={"timestamp": {"zone": "../UTC"}}', "no time zone"),
        ('source.columns={"device": {"zone": "UTC"}}', r"device\.zone means nothing: it applies to timestamp"),
        ('source.columns={"user_id": {"unit": "s"}}', "applies to timestamp, watch_ms, duration_ms"),
        (
            'source.columns={"watch_ms": {"values": {"a": "b"}}}',
            "applies to event_id, user_id, video_id, event_type, device",
        ),
        ('source.columns={"user_id": {"from_content": true}}', "applies to event_id"),
        (
            'source.columns={"event_id": {"name": "id", "from_content": true}}',
            "event_id.name means nothing beside event_id.from_",
        ),
        ('source.columns={"event_id": {"constant": "x", "from_content": true}}', "constant means nothing beside"),
        (
            'source.columns={"device": {"constant": "x", "values": {"x": "y"}}}',
            "values means nothing beside device.constant",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override(RunConfig(), [setting])


def test_overrides_reach_their_place_and_the_original_stays() -> None:
    base = RunConfig()
    changed = override(base, ["train.joint_epochs=3", "seed=11", "evaluate.ks=[1,10]", "lake=./elsewhere"])
    assert (changed.train.joint_epochs, changed.seed, changed.evaluate.ks, changed.lake) == (
        3,
        11,
        (1, 10),
        "./elsewhere",
    )
    assert base == RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        base.seed = 3  # type: ignore[misc]


def test_a_configuration_survives_json() -> None:
    config = preset("demo")
    assert load(json.loads(config.model_dump_json())) == config


def test_every_preset_is_valid_or_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEALREC_DATA", raising=False)
    with pytest.raises(ConfigError, match="set MEALREC_DATA to the folder that holds bili_food/"):
        preset("bili-food")
    monkeypatch.setenv("MEALREC_DATA", "/somewhere")
    for name in PRESETS:
        assert isinstance(preset(name), RunConfig)
    with pytest.raises(ConfigError, match="unknown preset 'demmo'; valid presets: demo, bili-food"):
        preset("demmo")


def test_a_digest_depends_on_content_alone_and_is_the_same_in_another_process() -> None:
    config = RunConfig()
    code = "from mealrec.config import RunConfig, digest; print(digest('x', RunConfig().train, {'b': 1, 'a': 2}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert digest("x", config.train, {"a": 2, "b": 1}) == other
    assert digest("x", override(config, ["train.lr=0.5"]).train) != digest("x", config.train)


def test_columns_may_be_written_out_with_every_option() -> None:
    """As `mealrec presets` prints them."""
    short = {"user_id": "uid", "timestamp": {"zone": "Europe/Berlin", "unit": "s"}, "event_id": {"from_content": True}}
    config = RunConfig.model_validate({"source": {"columns": short}})
    assert config.source.columns["timestamp"].zone == "Europe/Berlin"
    assert RunConfig.model_validate(json.loads(config.model_dump_json())) == config
