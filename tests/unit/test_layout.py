# SPDX-License-Identifier: Apache-2.0
"""Copy plans, gathers and digests against numpy's own indexing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mooncake_connector import _layout
from mooncake_connector.errors import ConfigError, LayoutMismatch, UnsupportedError
from mooncake_connector.pools import Plane, PoolSpec, planes_from_array

DIM = 3
UNTOUCHED = 0xEEEE

Pages = NDArray[np.int32]


def int32(*pages: int) -> Pages:
    return np.array(pages, dtype=np.int32)


@dataclass
class Cache:
    """A worker's share of a model's KV, in an array whose axes stand in the given order.

    The axes are those of `planes_from_array`; with S, K and V are split, else side by side in C.
    `apart` gives each layer an array of its own.
    """

    axes: str
    layers: range
    heads: range
    page_size: int
    page_count: int
    mla: bool = False
    apart: bool = False
    null_page: int | None = None
    arrays: list[NDArray[np.uint16]] = field(default_factory=list)

    def __post_init__(self) -> None:
        extents = {
            "L": 1 if self.apart else len(self.layers),
            "S": 2,
            "B": self.page_count,
            "H": len(self.heads),
            "N": self.page_size,
            "C": DIM if self.mla or "S" in self.axes else 2 * DIM,
        }
        shape = [extents[axis] for axis in self.axes]
        for _ in range(len(self.layers) if self.apart else 1):
            self.arrays.append(np.full(shape, UNTOUCHED, np.uint16))

    def spec(self) -> PoolSpec:
        planes = [
            plane
            for index, array in enumerate(self.arrays)
            for plane in planes_from_array(
                array,
                self.axes,
                layer=self.layers.start + index,
                kind="mla" if self.mla else "kv",
                first_head=self.heads.start,
            )
        ]
        return PoolSpec("kv.0", self.page_size, self.page_count, planes, self.null_page)

    def token(self, page: int, slot: int, layer: int, head: int) -> NDArray[np.uint16]:
        """A writable view of one token in one head: [K and V, DIM], or [1, DIM] for MLA."""
        index = layer - self.layers.start
        array = self.arrays[index] if self.apart else self.arrays[0]
        places = {
            "L": 0 if self.apart else index,
            "B": page,
            "H": head - self.heads.start,
            "N": slot,
        }
        view = array[tuple(places.get(axis, slice(None)) for axis in self.axes)]
        if "S" in self.axes:  # S and C are left, in either order
            return view if self.axes.index("S") < self.axes.index("C") else view.T
        return view.reshape(-1, DIM) if view.flags.c_contiguous else view[None, :].reshape(-1, DIM)


@dataclass
class End:
    """A cache and a request's pages in it; `pages[0]` begins with token `start`."""

    cache: Cache
    pages: Pages
    start: int

    def has(self, token: int) -> bool:
        index = token // self.cache.page_size - self.start // self.cache.page_size
        return self.cache.null_page is None or self.pages[index] != self.cache.null_page

    def values(
        self, tokens: Iterable[int]
    ) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.uint16]]]:
        """Views of all that this end holds of the tokens, each with what the model has there."""
        for token in filter(self.has, tokens):
            page = self.pages[(token - self.start) // self.cache.page_size]
            for layer in self.cache.layers:
                for head in self.cache.heads:
                    view = self.cache.token(page, token % self.cache.page_size, layer, head)
                    yield view, model_value(token, layer, head, len(view))


def model_value(token: int, layer: int, head: int, halves: int) -> NDArray[np.uint16]:
    """What the model has there; all values differ."""
    first = (((token * 8 + layer) * 8 + head) * 2) * DIM
    return np.arange(first, first + halves * DIM, dtype=np.uint16).reshape(halves, DIM)


def axes_strategy(draw: st.DrawFn, *, mla: bool, apart: bool) -> str:
    letters = ("" if apart else "L") + "BHN"
    split = not mla and draw(st.booleans())
    axes = "".join(draw(st.permutations(letters + ("S" if split else ""))))
    return axes + "C"


@st.composite
def ends(
    draw: st.DrawFn,
    layers: range,
    heads: range,
    tokens: tuple[int, int],
    *,
    mla: bool,
    start: int,
) -> End:
    page_size = draw(st.sampled_from([1, 2, 3, 4, 8]))
    first_page = min(start, tokens[0]) // page_size
    needed = (tokens[1] - 1) // page_size - first_page + 1
    page_count = needed + draw(st.integers(1, 5))
    pages = draw(st.permutations(range(1, page_count)))[:needed] if draw(st.booleans()) else None
    if pages is None:  # one run
        low = draw(st.integers(1, page_count - needed))
        pages = range(low, low + needed)
    apart = draw(st.booleans())
    cache = Cache(
        axes=axes_strategy(draw, mla=mla, apart=apart),
        layers=layers,
        heads=heads,
        page_size=page_size,
        page_count=page_count,
        mla=mla,
        apart=apart,
        null_page=0,
    )
    return End(cache, np.array(pages, dtype=np.int32), first_page * page_size)


@st.composite
def transfers(draw: st.DrawFn) -> tuple[list[End], End, tuple[int, int], int]:
    """Senders that hold a whole model between them, and a receiver that wants some of it."""
    mla = draw(st.booleans())
    layer_count = draw(st.integers(1, 4))
    head_share = 1 if mla else draw(st.integers(1, 2))
    shares = 1 if mla else draw(st.integers(1, 3))
    replicas = draw(st.integers(1, 3))
    first = draw(st.integers(0, 20))
    tokens = (first, first + draw(st.integers(1, 20)))
    cut = draw(st.integers(0, layer_count - 1))
    stages = [range(layer_count)] if cut == 0 else [range(cut), range(cut, layer_count)]
    page_size_of_senders: int | None = None
    senders: list[End] = []
    for stage in stages:
        for share in range(shares):
            heads = range(share * head_share, (share + 1) * head_share)
            for _ in range(replicas):
                end = draw(ends(stage, heads, tokens, mla=mla, start=0))
                # All ranks of a sender have the same page size, so `source_start` is one number.
                if page_size_of_senders is None:
                    page_size_of_senders = end.cache.page_size
                if end.cache.page_size == page_size_of_senders:
                    senders.append(end)
    all_heads = shares * head_share
    low = draw(st.integers(0, all_heads - 1))
    heads = range(low, draw(st.integers(low + 1, all_heads)))
    wanted_low = draw(st.integers(0, layer_count - 1))
    layers = range(wanted_low, draw(st.integers(wanted_low + 1, layer_count)))
    receiver = draw(ends(layers, heads, tokens, mla=mla, start=tokens[0]))
    # Null pages: windows that one side has given up, at any place.
    for end in (*senders[:1], receiver):
        if len(senders) == 1 and draw(st.booleans()):
            end.pages[draw(st.integers(0, len(end.pages) - 1))] = 0
    return senders, receiver, tokens, draw(st.integers(0, 3))


def covered(senders: list[End], receiver: End) -> bool:
    """Whether the senders that were kept hold all that the receiver wants."""
    return all(
        any(layer in end.cache.layers and head in end.cache.heads for end in senders)
        for layer in receiver.cache.layers
        for head in receiver.cache.heads
    )


@settings(max_examples=300, deadline=None)
@given(transfers())
def test_a_plan_moves_every_value_to_its_place_and_no_other(
    transfer: tuple[list[End], End, tuple[int, int], int],
) -> None:
    senders, receiver, tokens, receiver_index = transfer
    for end in senders:
        for view, value in end.values(range(*tokens)):
            view[:] = value
    arguments = {
        "sources": [(end.cache.spec(), end.pages) for end in senders],
        "destination": receiver.cache.spec(),
        "destination_pages": receiver.pages,
        "tokens": tokens,
        "source_start": senders[0].start,
        "destination_start": receiver.start,
        "receiver_index": receiver_index,
    }
    if not covered(senders, receiver):
        with pytest.raises(LayoutMismatch, match="none of the"):
            _layout.plan(**arguments)
        return
    plans = _layout.plan(**arguments)
    assert _layout.count_spans(**arguments) == [len(spans) for spans in plans]
    # Spans on the two sides of a null page belong to different slices, even where they touch.
    unbroken = all(end.cache.null_page not in end.pages for end in [*senders, receiver])
    for spans in plans:
        touching = spans[:-1, :2] + spans[:-1, 2:] == spans[1:, :2]
        if unbroken:
            assert not touching.all(axis=1).any(), "two spans that touch on both sides"
        _layout.copy(spans)

    moved = 0
    for view, value in receiver.values(filter(senders[0].has, range(*tokens))):
        np.testing.assert_array_equal(view, value)
        moved += view.nbytes
        view[:] = UNTOUCHED
    assert sum(int(spans[:, 2].sum()) for spans in plans) == moved
    for array in receiver.cache.arrays:
        assert (array == UNTOUCHED).all()


def filled(axes: str, *, page_size: int = 4, page_count: int = 8, **options: bool) -> Cache:
    """A cache of 2 layers and 3 heads, filled: page p holds the tokens from p * page_size on."""
    cache = Cache(axes, range(2), range(3), page_size, page_count, **options)
    for page in range(page_count):
        for slot in range(page_size):
            for layer in cache.layers:
                for head in cache.heads:
                    value = model_value(page * page_size + slot, layer, head, 1 if cache.mla else 2)
                    cache.token(page, slot, layer, head)[:] = value
    return cache


LAYOUTS = ["LBHNC", "LBNHC", "LHBNC", "BLHNC", "BLNHC", "BHLNC", "LSBNHC", "SLBHNC", "BSLHNC"]


@pytest.mark.parametrize("axes", LAYOUTS)
def test_gather_yields_layers_then_k_and_v_then_tokens_then_heads(axes: str) -> None:
    cache = filled(axes)
    pages = int32(5, 6, 2)
    expected = [
        model_value(pages[token // 4] * 4 + token % 4, layer, head, 2)[half]
        for layer in range(2)
        for half in range(2)
        for token in range(3, 11)
        for head in range(3)
    ]
    gathered = _layout.gather(cache.spec(), pages, (3, 11))
    np.testing.assert_array_equal(gathered.view(np.uint16), np.concatenate(expected))


@settings(max_examples=200, deadline=None)
@given(axes=st.sampled_from(LAYOUTS), window=st.data())
def test_gather_starts_and_ends_at_any_byte(axes: str, window: st.DataObject) -> None:
    cache, pages = filled(axes), int32(5, 6, 2, 3)
    spec = cache.spec()
    whole = _layout.gather(spec, pages, (1, 14))
    offset = window.draw(st.integers(0, len(whole)))
    length = window.draw(st.none() | st.integers(0, len(whole) - offset))
    end = len(whole) if length is None else offset + length
    part = _layout.gather(spec, pages, (1, 14), offset, length)
    np.testing.assert_array_equal(part, whole[offset:end])


@pytest.mark.parametrize("source", LAYOUTS[:3])
@pytest.mark.parametrize("destination", LAYOUTS)
def test_scatter_restores_in_any_layout_what_gather_took(source: str, destination: str) -> None:
    taken_from = filled(source)
    given_to = Cache(destination, range(2), range(3), page_size=6, page_count=5)
    pages = int32(1, 7, 3)
    _layout.scatter(given_to.spec(), int32(4, 0), _layout.gather(taken_from.spec(), pages))
    for token in range(12):
        for layer in range(2):
            for head in range(3):
                np.testing.assert_array_equal(
                    given_to.token((4, 0)[token // 6], token % 6, layer, head),
                    taken_from.token(pages[token // 4], token % 4, layer, head),
                )
    assert (_layout.gather(given_to.spec(), int32(1, 2, 3)).view(np.uint16) == UNTOUCHED).all()


@pytest.mark.parametrize("axes", LAYOUTS)
def test_digests_agree_between_layouts(axes: str) -> None:
    expected = filled("LBHNC")
    cache = filled(axes)
    pages = int32(1, 2, 6)
    digest = _layout.digest(cache.spec(), pages)
    assert digest == _layout.digest(expected.spec(), pages)
    assert _layout.digest(cache.spec(), pages, (1, 9)) == _layout.digest(
        expected.spec(), pages, (1, 9)
    )
    seen = {
        digest,
        _layout.digest(cache.spec(), int32(2, 1, 6)),
        _layout.digest(cache.spec(), pages[:2]),
    }
    cache.token(6, 3, 1, 2)[0, 0] ^= 1
    seen.add(_layout.digest(cache.spec(), pages))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("source", "destination", "pages", "spans"),
    [
        ("LBHNC", "LBHNC", (1, 2, 3), 2),  # each layer once
        ("LBHNC", "LBHNC", (1, 3, 4), 4),  # each layer's two runs
        ("LBNHC", "LBNHC", (1, 2, 3), 2),
        ("BLHNC", "BLHNC", (1, 2, 3), 1),  # rows of all layers touch
        ("BHLNC", "BHLNC", (1, 3, 5), 3),
        ("BLHNC", "LBHNC", (1, 2, 3), 6),  # each layer's share of each page
        ("LBHNC", "LBNHC", (1, 3, 5), 2 * 3 * 12),  # each token and head
        ("LHBNC", "LBHNC", (1, 2, 3), 2 * 3 * 3),  # each head of each page
    ],
)
def test_spans_are_merged_as_far_as_both_layouts_allow(
    source: str, destination: str, pages: tuple[int, ...], spans: int
) -> None:
    sender, receiver = filled(source), Cache(destination, range(2), range(3), 4, 8)
    count = _layout.count_spans(
        [(sender.spec(), int32(*pages))], receiver.spec(), int32(*pages), tokens=(0, 12)
    )
    assert count == [spans]


def test_shares_of_replicated_heads_rotate_with_the_receiver() -> None:
    senders = [filled("LBHNC") for _ in range(2)]
    receiver = Cache("LBHNC", range(2), range(3), 4, 8)
    first_addresses = []
    for index in range(2):
        plans = _layout.plan(
            [(sender.spec(), int32(1, 2)) for sender in senders],
            receiver.spec(),
            int32(1, 2),
            tokens=(0, 8),
            receiver_index=index,
        )
        assert [len(spans) for spans in plans] == [1, 1], "one layer from each"
        first_addresses.append(plans[0][0, 1])
    assert first_addresses[0] != first_addresses[1]


def test_rows_are_pages_of_one_token() -> None:
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    copied = np.zeros_like(rows)
    (plane,) = planes_from_array(rows, "BC", kind="aux")
    (other,) = planes_from_array(copied, "BC", kind="aux")
    (spans,) = _layout.plan(
        [(PoolSpec("aux", 1, 10, [plane]), int32(7))],
        PoolSpec("aux", 1, 10, [other]),
        int32(2),
        tokens=(0, 1),
    )
    _layout.copy(spans)
    np.testing.assert_array_equal(copied[2], rows[7])
    assert len(spans) == 1
    assert np.count_nonzero(copied) == 4


class TestBadInput:
    cache = filled("LBHNC")
    spec = cache.spec()

    def test_pages_out_of_range(self) -> None:
        with pytest.raises(ConfigError, match="page 8 is out of range: the pool has pages 0 to 7"):
            _layout.gather(self.spec, int32(0, 8))

    def test_negative_pages(self) -> None:
        with pytest.raises(ConfigError, match="page -1 is out of range"):
            _layout.digest(self.spec, int32(-1))

    def test_tokens_without_pages(self) -> None:
        with pytest.raises(ConfigError, match="pages exist for 0 to 7"):
            _layout.gather(self.spec, int32(0, 1), (0, 9))

    @pytest.mark.parametrize(("offset", "length"), [(577, None), (0, 577), (570, 7)])
    def test_bytes_behind_the_pages(self, offset: int, length: int | None) -> None:
        with pytest.raises(ConfigError, match="are not in the 576 bytes of the pages"):
            _layout.gather(self.spec, int32(0, 1), None, offset, length)

    def test_page_ids_of_another_type_are_not_converted(self) -> None:
        with pytest.raises(TypeError):
            _layout.gather(self.spec, np.array([2**32 + 1]))
        with pytest.raises(TypeError, match="int32"):
            _layout.plan([(self.spec, np.array([1]))], self.spec, int32(1), tokens=(0, 4))
        with pytest.raises(TypeError):
            _layout.gather(self.spec, int32(0, 1, 2, 3)[::2])

    def test_too_few_bytes_change_nothing(self) -> None:
        before = self.cache.arrays[0].copy()
        with pytest.raises(ConfigError, match="the pages take 288 bytes, but 287 were given"):
            _layout.scatter(self.spec, int32(1), np.zeros(287, np.uint8))
        np.testing.assert_array_equal(self.cache.arrays[0], before)

    def test_first_page_within_a_page(self) -> None:
        with pytest.raises(ConfigError, match="token 3, which is no multiple of the page size 4"):
            _layout.plan(
                [(self.spec, int32(1))], self.spec, int32(1), tokens=(0, 4), destination_start=3
            )

    def test_pools_of_different_dtypes(self) -> None:
        planes = planes_from_array(self.cache.arrays[0].view(np.float16), self.cache.axes)
        other = PoolSpec("kv.0", 4, 8, planes)
        with pytest.raises(LayoutMismatch, match="dtype uint16, the destination float16"):
            _layout.plan([(self.spec, int32(1))], other, int32(1), tokens=(0, 4))

    def test_memory_of_a_device(self) -> None:
        plane = Plane(1 << 30, 8, 8, 8, 1, 1, 8, "uint8", 0, "aux", device=1)
        spec = PoolSpec("aux", 1, 4, [plane])
        with pytest.raises(UnsupportedError, match="CUDA device 1"):
            _layout.gather(spec, int32(1))
        assert _layout.count_spans([(spec, int32(1))], spec, int32(2), tokens=(0, 1)) == [1]

    def test_values_that_are_no_sizes(self) -> None:
        plane = Plane(1 << 30, 8, 8, 8, 1, 2, 8, "uint8", 0, "aux")
        object.__setattr__(plane, "heads", -2)  # which Plane itself refuses
        with pytest.raises(ConfigError, match=r"Plane\.heads is not valid: -2"):
            _layout.digest(PoolSpec("aux", 1, 4, [plane]), int32(1))

    def test_overlapping_elements(self) -> None:
        plane = Plane(1 << 30, 7, 0, 0, 1, 1, 8, "uint8", 0, "aux")
        with pytest.raises(ConfigError, match="page stride of 7 bytes makes elements overlap"):
            _layout.digest(PoolSpec("aux", 1, 4, [plane]), int32(1))

    def test_spans_of_another_type(self) -> None:
        with pytest.raises(TypeError):
            _layout.copy(np.zeros((2, 3), np.int64))
        with pytest.raises(TypeError):
            _layout.copy(np.zeros((2, 2), np.uint64))
