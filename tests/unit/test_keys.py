# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from mooncake_connector.config import KEY_VARIABLE, EngineConfig
from mooncake_connector.errors import ConfigError
from mooncake_connector.keys import Key, load_keys

FIRST, SECOND = "1" * 32, "2" * 64


def key_file(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "kv.key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_no_key_by_default() -> None:
    assert load_keys(None, {}) == []


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    assert load_keys(key_file(tmp_path, f"{FIRST}\n{SECOND}\n"), {}) == [
        Key(FIRST.encode()),
        Key(SECOND.encode()),
    ]


def test_keys_come_from_the_environment() -> None:
    assert load_keys(None, {KEY_VARIABLE: FIRST}) == [Key(FIRST.encode())]
    EngineConfig.from_environment({KEY_VARIABLE: FIRST})  # no unknown variable


def test_the_two_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep one"):
        load_keys(key_file(tmp_path, FIRST), {KEY_VARIABLE: FIRST})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_file_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        load_keys(key_file(tmp_path, FIRST, mode), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        ("\n \n", "holds no key"),
        ("1" * 31, "can be guessed"),
        (f"{FIRST}\nshort", "can be guessed"),
        (f"{FIRST}\n{SECOND}\n{FIRST}", "at most two"),
    ],
)
def test_bad_keys_are_refused_without_showing_them(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_keys(key_file(tmp_path, text), {})
    assert "1" * 31 not in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/kv\.key.*No such file"):
        load_keys("/nowhere/kv.key", {})


def test_the_id_does_not_show_the_key() -> None:
    key = Key(FIRST.encode())
    expected = hmac.new(FIRST.encode(), b"mooncake_connector id", hashlib.sha256).digest()
    assert key.id == expected[:16]
    assert FIRST not in repr(key)
    assert key.derive("bootstrap") != key.derive("id")
