# SPDX-License-Identifier: Apache-2.0
"""Statistics on their way from worker to log and Prometheus."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mooncake_connector.vllm.stats import TransferMetrics, TransferStats


def some() -> TransferStats:
    stats = TransferStats()
    stats.record_transfer(0.002, 1 << 20, 8)
    stats.record_failed_transfer()
    stats.record_expired_request()
    return stats


def test_taking_starts_anew() -> None:
    stats = some()
    taken = stats.take()
    assert taken is not None and not taken.is_empty()
    assert stats.is_empty() and stats.take() is None


def test_they_travel_between_processes() -> None:
    received = TransferStats(pickle.loads(pickle.dumps(some())).to_dict())
    assert received.data == some().data


def test_workers_are_added_up() -> None:
    total = some().aggregate(some())
    assert total.data["bytes"] == [1 << 20] * 2
    assert (total.data["failed_transfers"], total.data["expired_requests"]) == (2, 2)


def test_the_summary() -> None:
    summary = some().reduce()
    assert summary["Avg MB per transfer"] == 1.0
    assert summary["Throughput (MB/s)"] == 500.0
    assert TransferStats().reduce()["Num successful transfers"] == 0


def test_prometheus() -> None:
    registry = CollectorRegistry()

    def in_registry(metric: Any) -> Any:
        return lambda **options: metric(registry=registry, **options)

    kinds = {kind: in_registry(kind) for kind in (Gauge, Counter, Histogram)}
    config = SimpleNamespace(kv_transfer_config=None)
    metrics = TransferMetrics(config, kinds, ["model", "engine"], {0: ["tiny", "0"]})
    metrics.observe(some().to_dict())
    text = generate_latest(registry).decode()
    for line in (
        'vllm:mooncake_connector_xfer_time_seconds_count{engine="0",model="tiny"} 1.0',
        'vllm:mooncake_connector_bytes_transferred_sum{engine="0",model="tiny"} 1.048576e+06',
        'vllm:mooncake_connector_num_descriptors_sum{engine="0",model="tiny"} 8.0',
        'vllm:mooncake_connector_num_failed_transfers_total{engine="0",model="tiny"} 1.0',
        'vllm:mooncake_connector_num_kv_expired_reqs_total{engine="0",model="tiny"} 1.0',
    ):
        assert line in text
