# SPDX-License-Identifier: Apache-2.0
import os

# Python processes that tests start must import the installed package too, and not the source folder
# of the same name, which has no extension modules.
os.environ.setdefault("PYTHONSAFEPATH", "1")
