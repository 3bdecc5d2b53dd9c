# SPDX-License-Identifier: Apache-2.0
"""What vLLM logs and exports of our transfers.

The decode server counts the transfers, since it is the one that waits for them; the prefill
server counts what it held in vain. Metric names follow those of vLLM's NIXL connector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)
from vllm.v1.metrics.utils import create_metric_per_engine

_PREFIX = "vllm:mooncake_connector_"

_SECONDS_BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30]
_BYTES_BUCKETS = [float(4**power) for power in range(5, 19)]
_COUNT_BUCKETS = [float(4**power) for power in range(10)]

# Name in the statistics -> (metric, what it says, buckets).
_HISTOGRAMS = {
    "xfer_time": (
        "xfer_time_seconds",
        "Time from asking for a request's KV to having it.",
        _SECONDS_BUCKETS,
    ),
    "bytes": ("bytes_transferred", "Bytes of KV fetched for a request.", _BYTES_BUCKETS),
    "descriptors": ("num_descriptors", "Separate copies that a request's KV took.", _COUNT_BUCKETS),
}
_COUNTERS = {
    "failed_transfers": ("num_failed_transfers", "Requests whose KV could not be fetched."),
    "expired_requests": ("num_kv_expired_reqs", "Prefilled requests that nobody fetched in time."),
}


@dataclass
class TransferStats(KVConnectorStats):
    """What happened since the last step: lists of observations, and counts. Picklable."""

    data: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.data:
            self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.data = {**{name: [] for name in _HISTOGRAMS}, **dict.fromkeys(_COUNTERS, 0)}

    def record_transfer(self, seconds: float, nbytes: int, descriptors: int) -> None:
        """Notes one fetched request."""
        self.data["xfer_time"].append(seconds)
        self.data["bytes"].append(nbytes)
        self.data["descriptors"].append(descriptors)

    def record_failed_transfer(self) -> None:
        """Notes a request whose KV could not be fetched."""
        self.data["failed_transfers"] += 1

    def record_expired_request(self) -> None:
        """Notes a prefilled request whose pages were given back because nobody came."""
        self.data["expired_requests"] += 1

    def take(self) -> TransferStats | None:
        """Returns what was noted and starts anew; None if nothing was."""
        if self.is_empty():
            return None
        taken = TransferStats(self.data)
        self.reset()
        return taken

    def is_empty(self) -> bool:
        """Whether nothing was noted."""
        return not any(self.data.values())

    def aggregate(self, other: KVConnectorStats) -> TransferStats:
        """Adds another worker's or step's statistics to these."""
        for name, value in other.data.items():
            self.data[name] = self.data[name] + value
        return self

    def reduce(self) -> dict[str, int | float]:
        """What the server's log shows for an interval."""
        summary: dict[str, int | float] = {
            "Num successful transfers": len(self.data["bytes"]),
            "Num failed transfers": self.data["failed_transfers"],
            "Num KV expired reqs": self.data["expired_requests"],
        }
        if self.data["bytes"]:
            seconds, nbytes = np.asarray(self.data["xfer_time"]), sum(self.data["bytes"])
            summary |= {
                "Avg xfer time (ms)": round(float(seconds.mean()) * 1e3, 3),
                "P90 xfer time (ms)": round(float(np.percentile(seconds, 90)) * 1e3, 3),
                "Avg MB per transfer": round(nbytes / len(seconds) / 2**20, 3),
                "Throughput (MB/s)": round(nbytes / max(float(seconds.sum()), 1e-9) / 2**20, 3),
                "Avg number of descriptors": round(float(np.mean(self.data["descriptors"])), 1),
            }
        return summary


class TransferMetrics(KVConnectorPromMetrics):
    """The same as Prometheus metrics."""

    def __init__(self, *arguments: Any) -> None:
        """Takes what ``KVConnectorBase_V1.build_prom_metrics`` is given."""
        super().__init__(*arguments)
        self._histograms = {
            name: self._per_engine(
                self._histogram_cls(
                    name=_PREFIX + metric,
                    documentation=text,
                    buckets=buckets,
                    labelnames=self._labelnames,
                )
            )
            for name, (metric, text, buckets) in _HISTOGRAMS.items()
        }
        self._counters = {
            name: self._per_engine(
                self._counter_cls(
                    name=_PREFIX + metric, documentation=text, labelnames=self._labelnames
                )
            )
            for name, (metric, text) in _COUNTERS.items()
        }

    def _per_engine(self, metric: Any) -> Any:
        return create_metric_per_engine(metric, self.per_engine_labelvalues)

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Adds one step's statistics, as ``TransferStats.to_dict`` gives them."""
        for name, per_engine in self._histograms.items():
            for value in transfer_stats_data[name]:
                per_engine[engine_idx].observe(value)
        for name, per_engine in self._counters.items():
            per_engine[engine_idx].inc(transfer_stats_data[name])
