# SPDX-License-Identifier: Apache-2.0
"""Lets PyPI's torchvision be imported beside torch's CPU build.

    python declare_torchvision_ops.py       with the interpreter of the environment to be changed

PyPI's torchvision is linked against CUDA, so its operators do not load here, and it then fails at
describing operators that do not exist. Declaring these two is all that it misses; SGLang imports
torchvision and never calls them for a text model.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

MARK = "# mooncake_connector: operators declared for torch's CPU build"
ADDITION = f"""

{MARK}
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define(
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
"""


def main() -> None:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        raise SystemExit("torchvision is not installed in this environment")
    module = Path(package.origin).with_name("extension.py")
    text = module.read_text()
    if MARK not in text:
        module.write_text(text + ADDITION)


if __name__ == "__main__":
    main()
