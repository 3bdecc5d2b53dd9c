# SPDX-License-Identifier: Apache-2.0
"""Options: defaults, the order of sources, conversions, and errors that name the valid ones."""

from __future__ import annotations

import pytest

from mooncake_connector.config import ConnectorConfig, EngineConfig
from mooncake_connector.errors import ConfigError, MooncakeConnectorError


def test_defaults_are_loopback_and_valid() -> None:
    config = ConnectorConfig()
    assert config.host == "127.0.0.1"
    assert config.bootstrap_port == 8998
    assert config.paths is None


def test_extra_config_wins_over_the_environment() -> None:
    environment = {
        "MOONCAKE_CONNECTOR_TCP_LANES": "7",
        "MOONCAKE_CONNECTOR_VERIFY": "yes",
        "MOONCAKE_CONNECTOR_PATHS": "shm, tcp",
        "HOME": "/root",
    }
    config = ConnectorConfig.from_extra_config({"tcp_lanes": 3}, environment)
    assert (config.tcp_lanes, config.verify, config.paths) == (3, True, ("shm", "tcp"))


def test_an_engine_ignores_the_adapters_variables() -> None:
    config = EngineConfig.from_environment({"MOONCAKE_CONNECTOR_BOOTSTRAP_PORT": "9000"})
    assert config == EngineConfig()


def test_engine_options_drops_what_the_engine_does_not_know() -> None:
    config = ConnectorConfig(port=5, bootstrap_port=9000)
    assert config.engine_options() == EngineConfig(port=5)


def test_unknown_option_names_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'tcp_lane'.*did you mean tcp_lanes"):
        ConnectorConfig.from_extra_config({"tcp_lane": 4}, {})
    with pytest.raises(ConfigError, match="MOONCAKE_CONNECTOR_BOOTSTRAP_PORT"):
        ConnectorConfig.from_environment({"MOONCAKE_CONNECTOR_BOOTSTRAP_PROT": "1"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "must be 0 to 65535"),
        ({"port": "eight"}, "not a whole number"),
        ({"port": True}, "not a whole number"),
        ({"host": 5}, "not text"),
        ({"strict": "maybe"}, "not true or false"),
        ({"paths": ["carrier-pigeon"]}, "choose from local, shm"),
        ({"paths": []}, "choose from"),
        ({"paths": ["rdma"]}, "choose from local, shm, cma, tcp"),
        ({"cma": "all"}, "one of auto, any"),
        ({"ping_interval": 3.0}, "shorter than peer_timeout"),
        ({"max_wait": 0}, "greater than 0"),
        ({"tcp_lanes": 0}, "must be 1 to 64"),
        ({"tcp_lanes": 65}, "must be 1 to 64"),
        ({"ring_bytes": 1}, "must be 65536 to 67108864"),
        ({"io_threads": 1 << 40}, "must be 1 to 256"),
        ({"advertise": ""}, "no name or address"),
        ({"advertise": "two words"}, "no name or address"),
        ({"host": "[::1]"}, "without brackets"),
        ({"busy_poll": 0.02}, "between 0 and 0.01"),
        ({"host": "0.0.0.0"}, "advertise="),
        ({"host": "::"}, "advertise="),
        ({"key": "k" * 64}, "key_file"),
        ({"allowed_peers": ["10.0.0.1/8"]}, "not a CIDR range"),
    ],
)
def test_bad_values_are_refused_with_a_reason(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ConnectorConfig.from_extra_config(options, {})
    assert isinstance(error.value, MooncakeConnectorError)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_is_always_allowed(host: str) -> None:
    assert ConnectorConfig().allows(host)


def test_allowed_peers_match_names_addresses_and_ranges() -> None:
    config = ConnectorConfig(
        host="192.0.2.7", allowed_peers=("prefill-0.example", "198.51.100.0/24", "2001:db8::5")
    )
    for host in ("192.0.2.7", "PREFILL-0.example", "198.51.100.77", "2001:db8::5"):
        assert config.allows(host), host
    for host in (
        "192.0.2.8",
        "prefill-1.example",
        "198.51.101.1",
        "2001:db8::6",
        "169.254.169.254",
    ):
        assert not config.allows(host), host


def test_binding_to_all_interfaces_allows_no_stranger() -> None:
    assert not ConnectorConfig(host="0.0.0.0", advertise="192.0.2.1").allows("203.0.113.9")
    assert not ConnectorConfig(host="0.0.0.0", advertise="192.0.2.1").allows("0.0.0.0")
