# SPDX-License-Identifier: Apache-2.0
# The mutation test is a stage of its own; that its mistakes can be planted is seen here.
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def mutate():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import mutate

        yield mutate
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_the_text_of_each_occurs_exactly_once(mutate):
    for mutation in mutate.MUTATIONS:
        source = (ROOT / "csrc" / mutation.file).read_text()
        assert mutate.spoilt(source, mutation) != source, mutation.name


def test_names_are_unique(mutate):
    names = [mutation.name for mutation in mutate.MUTATIONS]
    assert len(set(names)) == len(names)


def test_the_tests_that_find_them_exist(mutate):
    written = "".join(path.read_text() for path in (ROOT / "tests" / "csrc").rglob("test_*.cpp"))
    for mutation in mutate.MUTATIONS:
        for test in mutation.found_by:
            suite, name = test.strip("*").split(".")
            assert f"({suite}, {name})" in written, test


@pytest.mark.parametrize(("old", "times"), [("four", 0), ("e", 3)])
def test_text_that_is_gone_or_repeated_is_an_error(mutate, old, times):
    with pytest.raises(mutate.BrokenError, match=f"occurs {times} times"):
        mutate.spoilt("one two three", mutate.Mutation("", "", old, "x"))


TWO_SEEDS = "seed 9; replay it with\nseed 7; replay it with"
ONE_TEST = "[==========] Running 1 test from 1 test suite."
NO_TEST = "[==========] Running 0 tests from 0 test suites."
CRASH = f"{ONE_TEST}\n==1==ERROR: AddressSanitizer: SEGV"


@pytest.mark.parametrize(
    ("found_by", "answer", "shown"),
    [
        ((), (TWO_SEEDS, 1), "seed 7"),
        ((), ("", 0), "NOT FOUND by 10 seeds"),
        ((), ("killed", 1), "named no seed"),
        (("A.B",), (ONE_TEST, 1), "A.B"),
        (("A.B",), (CRASH, 1), "A.B"),
        (("A.B",), (ONE_TEST, 0), "NOT FOUND by A.B"),
        (("A.B",), (NO_TEST, 0), "there is no test A.B"),
    ],
)
def test_says_what_shows_a_mistake(mutate, tmp_path, found_by, answer, shown):
    output, status = answer
    binary = tmp_path / "binary"  # answers as a test binary does
    binary.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
    binary.chmod(0o755)
    mutation = mutate.Mutation("name", "protocol/x.cpp", "old", "new", found_by)
    try:
        assert mutate.find(binary, mutation, 10) == shown
    except mutate.BrokenError as error:
        assert shown in str(error)
        assert not shown.startswith(("seed", "A"))


def test_a_test_that_hangs_has_found_it(mutate, tmp_path, monkeypatch):
    monkeypatch.setattr(mutate, "TESTS_PATIENCE_SECONDS", 0.2)
    binary = tmp_path / "binary"
    binary.write_text(f"#!/bin/sh\necho '{ONE_TEST}'\nexec sleep 60\n")
    binary.chmod(0o755)
    assert not mutate.passes(binary, "A.B")
