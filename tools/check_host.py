# SPDX-License-Identifier: Apache-2.0
"""Says what this machine lacks to build the package, each with its cure.

Runs before anything is installed and on any Python 3, so it uses nothing but the standard library
and no syntax newer than that of Python 3.6.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

MINIMUM_PYTHON = (3, 11)
CXX20_PROGRAM = """
#include <concepts>
#include <span>
template <std::integral T> T first(std::span<const T> values) { return values.front(); }
int main() { const int values[] = {0}; return first(std::span<const int>(values)); }
"""


def python_problems():
    """What is wrong with the interpreter that runs this."""
    found = ".".join(str(number) for number in sys.version_info[:3])
    if sys.version_info < MINIMUM_PYTHON:
        yield (
            f"Python 3.11 or newer is needed; {sys.executable} is {found}. "
            "Install a newer one and name it: make PYTHON=/path/to/python3.11"
        )
        return
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        yield (
            f"{sys.executable} cannot make virtual environments. "
            "Debian, Ubuntu: apt-get install python3-venv"
        )
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        yield (
            f"The headers of {sys.executable} ({found}) are missing. "
            "Debian, Ubuntu: apt-get install python3-dev; Fedora: dnf install python3-devel"
        )


def compiler_problem():
    """Why the C++ compiler that CMake would take cannot build the package, or None."""
    cure = (
        "Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++) "
        "or name one: make CXX=/path/to/c++"
    )
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    compiler = next((path for path in map(shutil.which, candidates) if path), None)
    if compiler is None:
        return f"A C++20 compiler is needed; found none of {', '.join(candidates)}. {cure}"
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "check.cpp")
        with open(source, "w") as file:
            file.write(CXX20_PROGRAM)
        done = subprocess.run(
            [compiler, "-std=c++20", source, "-o", os.path.join(folder, "check")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        first_line = (done.stdout.strip().splitlines() or ["no message"])[0]
        return f"{compiler} cannot build C++20 programs ({first_line}). {cure}"
    return None


def main():
    problems = [*python_problems(), compiler_problem()]
    problems = [problem for problem in problems if problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
