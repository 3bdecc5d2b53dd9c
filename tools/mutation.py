# SPDX-License-Identifier: Apache-2.0
"""What a planted mistake is; see tools/mutate.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A mistake in one source.

    Attributes:
        name: What goes wrong.
        file: Below csrc/. Not a header, after which everything would be built anew.
        old: Text that occurs there exactly once.
        new: What stands in its place.
        found_by: Tests of its layer of which each has to fail; the simulator if there is none.
        quick: Whether it is among the few that "make test" tries.
    """

    name: str
    file: str
    old: str
    new: str
    found_by: tuple[str, ...] = ()
    quick: bool = False

    @property
    def target(self) -> str:
        """The test binary of its layer."""
        return f"test_{self.file.split('/')[0]}"
