# SPDX-License-Identifier: Apache-2.0
"""All forms of --disaggregation-ib-device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mooncake_connector.errors import ConfigError
from mooncake_connector.sglang.devices import parse_devices


@pytest.fixture
def system(tmp_path: Path) -> Path:
    for name in ("mlx5_0", "mlx5_1", "mlx5_2"):
        (tmp_path / "devices" / name).mkdir(parents=True)
    return tmp_path / "devices"


@pytest.mark.parametrize("value", [None, "", "  "])
def test_nothing_means_any(system: Path, value: str | None) -> None:
    assert parse_devices(value, 0, system) == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mlx5_1", ("mlx5_1",)),
        (" mlx5_1 , mlx5_0,", ("mlx5_1", "mlx5_0")),
        ("mlx5_1,mlx5_1", ("mlx5_1",)),
        ('{"0": "mlx5_0", "1": "mlx5_1, mlx5_2"}', ("mlx5_1", "mlx5_2")),
    ],
)
def test_names_and_objects(system: Path, value: str, expected: tuple[str, ...]) -> None:
    assert parse_devices(value, 1, system) == expected


def test_a_file(system: Path, tmp_path: Path) -> None:
    file = tmp_path / "devices.json"
    file.write_text(json.dumps({"1": "mlx5_2"}))
    assert parse_devices(str(file), 1, system) == ("mlx5_2",)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("mlx5_9", "this host has no mlx5_9; it has: mlx5_0, mlx5_1, mlx5_2"),
        (",", "names no device"),
        ('{"0": "mlx5_0"}', "says nothing of GPU 1, only of: 0"),
        ('{"1": 5}', "are no text"),
        ('{"1": ""}', "names no device"),
        ('{"one": "mlx5_0"}', "is malformed"),
        ("{", "is malformed"),
        ("/nowhere.json", "cannot be read"),
    ],
)
def test_mistakes_are_named(system: Path, value: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match="--disaggregation-ib-device") as caught:
        parse_devices(value, 1, system)
    assert complaint in str(caught.value)


def test_a_host_without_devices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no RDMA device"):
        parse_devices("mlx5_0", 0, tmp_path / "missing")
