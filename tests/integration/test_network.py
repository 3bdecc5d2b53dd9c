# SPDX-License-Identifier: Apache-2.0
"""A network that goes away without a word, and one that loses, delays and reorders packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.figures import Figure
from support.network import Network, NotPermittedError, Weather
from support.sites import Site, Sites

PEER_TIMEOUT = 2.0
SLACK = 3.0


@dataclass(frozen=True)
class Places:
    """Two sites with a wire between them, and one beside the first."""

    network: Network
    near: Site
    far: Site
    neighbour: Site

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.near, self.far, self.neighbour


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    try:
        network = Network()
    except NotPermittedError as problem:
        pytest.skip(f"no network of our own: {problem}")
    with network, Sites() as sites:
        here, there = network.ends
        near, far, neighbour = (
            sites.make(name, ("tcp",), end.wrapper, host=end.address, key_file=str(key))
            for name, end in (("near", here), ("far", there), ("neighbour", here))
        )
        # Slow enough that there is always something in the middle.
        near.fetch_from(far, in_flight=8, steps=24, pace=0.01)
        far.fetch_from(near, in_flight=8, steps=24, pace=0.01)
        near.fetch_from(neighbour, in_flight=1)
        yield Places(network, near, far, neighbour)


def _until_good(site: Site, name: str, count: int, since: float = 0.0) -> None:
    site.until(lambda report: len(report.fetched[name].good_after(since)) >= count)


def _nothing_is_left(places: Places) -> str:
    for site in places.sites:
        site.stop()
    transfers = 0
    for site in places.sites:
        report = site.settle()["tcp"]
        assert (report.wrong, report.late_writes, report.missing) == ([], 0, 0), site.name
        assert report.still_open == {}, site.name
        transfers += sum(len(tally.good) for tally in report.fetched.values())
    return f"0 of {transfers}"


def test_a_network_that_vanishes(places: Places, figure: Figure) -> None:
    """No FIN, no RST: only silence tells."""
    _until_good(places.near, "far", 20)
    _until_good(places.far, "near", 20)
    places.network.weather = Weather(cut=True)
    cut = time.monotonic()
    time.sleep(PEER_TIMEOUT + 1)
    declared = []
    for site, other in (places.near, "far"), (places.far, "near"):
        site.until(lambda report, other=other: bool(report.fetched[other].hit_at(cut)))
        failures = site.reports()["tcp"].fetched[other].hit_at(cut)
        declared += [failure.ended - cut for failure in failures]
        assert {failure.error for failure in failures} == {"PeerLost"}
    mended = time.monotonic()
    places.network.weather = Weather()
    _until_good(places.near, "far", 5, mended)
    _until_good(places.far, "near", 5, mended)
    back = places.near.reports()["tcp"].fetched["far"].good_after(mended)[0] - mended
    neighbour = places.near.reports()["tcp"].fetched["neighbour"]
    assert not neighbour.failed
    assert neighbour.good_after(cut + PEER_TIMEOUT)
    wrong = _nothing_is_left(places)
    assert max(declared) < PEER_TIMEOUT + SLACK
    figure("wrong bytes reported good", wrong)
    figure("silent network noticed within 2 s", f"{max(declared):.2f} s")
    figure("first good transfer after the network is back", f"{back:.2f} s")
    figure("transfers of the uninvolved peer that failed", f"0 of {len(neighbour.good)}")


def test_packets_that_are_lost_late_and_out_of_order(places: Places, figure: Figure) -> None:
    _until_good(places.near, "far", 1)
    places.network.weather = Weather(delay=0.005, loss=0.02, disorder=0.05)
    begun = time.monotonic()
    _until_good(places.near, "far", 25, begun)
    _until_good(places.far, "near", 25, begun)
    dropped, carried = places.network.dropped, places.network.carried
    assert dropped > 0
    places.network.weather = Weather()
    wrong = _nothing_is_left(places)
    for site in places.sites:
        for tally in site.reports()["tcp"].fetched.values():
            assert not tally.failed, tally.failed[0]
    figure("wrong bytes reported good", wrong)
    figure(
        "packets lost of those sent, while no transfer failed", f"{dropped} of {dropped + carried}"
    )
