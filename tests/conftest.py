# SPDX-License-Identifier: Apache-2.0
import importlib.util
import os

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
