# SPDX-License-Identifier: Apache-2.0
"""``python -m mooncake_connector.cli``."""

import sys

from mooncake_connector.cli import main

if __name__ == "__main__":
    sys.exit(main())
