import pytest

from katlit.tracking.redaction import redact, redact_command


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "api_key",
        "HF_TOKEN",
        "token",
        "judge.secret",
        "aws_secret_access_key",
        "Authorization",
        "key",
    ],
)
def test_secrets_are_cut_at_any_depth(key: str) -> None:
    settings = {"model": {"judges": [{key: "hunter2", "name": "j"}]}}
    assert redact(settings) == {"model": {"judges": [{key: "***", "name": "j"}]}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer", "assets/student"),
        ("max_tokens", 64),
        ("token", 3),
        ("api_key", None),
        ("api_key", ""),
        ("pad_token", "<pad>"),
        ("eos_token", "<|im_end|>"),
        ("monkey", "x"),
        ("keys", ["a"]),
        ("use_key", True),
    ],
)
def test_what_is_no_secret_stays(key: str, value: object) -> None:
    assert redact({key: value}) == {key: value}


def test_credentials_are_cut_from_uris() -> None:
    assert (
        redact("see http://me:pw@host:5000/a and postgres://x@db")
        == "see http://***@host:5000/a and postgres://***@db"
    )
    assert redact({"uri": "http://host/a@b"}) == {"uri": "http://host/a@b"}


def test_the_original_is_untouched() -> None:
    settings = {"a": [{"token": "x"}]}
    redact(settings)
    assert settings == {"a": [{"token": "x"}]}


def test_command_line() -> None:
    words = ["katlit", "fit", "-c", "a.yaml", "--a.api_key=x", "--a.token", "y", "z", "--uri", "http://u:p@h"]
    assert redact_command(words) == "katlit fit -c a.yaml --a.api_key=*** --a.token *** z --uri http://***@h"
