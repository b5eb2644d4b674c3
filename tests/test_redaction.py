"""What counts as a secret in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mealrec.config import ConfigError, RunConfig, load, override
from mealrec.redaction import holds_password, redact

CANARY = "c4n4ry-Pa55"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{CANARY}@host/db",
        f"postgresql://me:{CANARY}@x@host/db",  # an @ in the password, not encoded
        f"could not connect to s3://key:{CANARY}@bucket/lake/items: no",
        f"host=db user=me password={CANARY} dbname=x",
        f"postgresql://host/db?password={CANARY}&sslmode=require",
        f"Authorization: {CANARY}",
        f"token={CANARY}",
    ],
)
def test_a_secret_of_a_known_form_is_blotted_out(text: str) -> None:
    assert CANARY not in redact(text, {}) and "***" in redact(text, {})


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "PGPASSWORD", "PREFECT_API_AUTH_STRING"])
def test_the_value_of_a_secret_variable_is_blotted_out_wherever_it_turns_up(name: str) -> None:
    assert redact(f"signed with {CANARY}!", {name: CANARY}) == "signed with ***!"


def test_what_is_no_secret_stays() -> None:
    environment = {"RAY_AUTH_MODE": "token", "TOKENIZERS_PARALLELISM": "false", "RAY_AUTH_TOKEN_PATH": "/home/me/token"}
    for text in ("s3://bucket/a@b", "mode token, false alarm", "text_tokens=8 for 3 tokens", "read /home/me/token"):
        assert redact(text, environment) == text


@given(st.text(max_size=80))
def test_blotting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text, {}), {}) == redact(text, {})


@pytest.mark.parametrize(
    "setting",
    [
        f"registry.tracking_uri=postgresql://me:{CANARY}@host/db",
        f"registry.tracking_uri=postgresql://host/db?password={CANARY}",
        f"lake=s3://key:{CANARY}@bucket/lake",
        f"ray.address=ray://me:{CANARY}@host:10001",
    ],
)
def test_settings_refuse_a_password_and_do_not_repeat_it(setting: str) -> None:
    with pytest.raises(ConfigError, match="must not hold a password") as refused:
        override(RunConfig(), [setting])
    assert CANARY not in str(refused.value)


def test_a_user_without_a_password_is_allowed() -> None:
    for uri in ("postgresql://me@host/db", "postgresql://postgres:@/mlflow?host=/run/pg", "http://127.0.0.1:5000"):
        assert not holds_password(uri)
        assert load({"registry": {"tracking_uri": uri}}).registry.tracking_uri == uri
