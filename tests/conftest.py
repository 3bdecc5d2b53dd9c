# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os
from collections.abc import Callable

import pytest
from support.figures import MARK, Figure

# Python processes that tests start must import the installed package too, and not the source folder
# of the same name, which has no extension modules.
os.environ.setdefault("PYTHONSAFEPATH", "1")

# No example has a deadline: how long one takes is up to who else uses the machine. CI tries the
# same examples each time, so that what it reports is about the change; elsewhere new ones are
# tried. (The environment of the tests inside vLLM has no hypothesis, and no need of it.)
if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("ours", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("ours")


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Notes something measured in the JUnit report."""

    def note(promise: str, measured: str) -> None:
        record_property(MARK + promise, measured)

    return note
