# SPDX-License-Identifier: Apache-2.0
"""What a test measured goes into the JUnit report, from which tools/reliability.py quotes it."""

from collections.abc import Callable

Figure = Callable[[str, str], None]
"""Takes what is promised, and what was measured."""

MARK = "figure: "
