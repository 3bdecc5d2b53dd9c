# SPDX-License-Identifier: Apache-2.0
# The mutation test itself runs with 'make mutants'; that its mistakes can be planted is seen here.
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mutations = load("mutations")
mutate = load("mutate")


class Sources:
    """A copy in which nothing is built and every seed passes, unless it is told one that fails."""

    def __init__(self, path, failing_seed=None):
        self.path = path
        self.failing_seed = failing_seed
        self.built = None

    def source(self, mutation):
        return self.path

    def build(self):
        self.built = self.path.read_text()

    def first_failing_seed(self, seeds):
        return self.failing_seed


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.name)
def test_text_occurs_exactly_once(mutation):
    source = (ROOT / "csrc" / "protocol" / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    assert mutation.new != mutation.old


def test_names_are_unique():
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.cpp"
    path.write_text("one two three")
    return path


def test_plants_and_takes_back(source):
    copy = Sources(source, failing_seed=7)
    assert mutate.plant(copy, mutations.Mutation("", "", "two", "2"), seeds=10) == 7
    assert copy.built == "one 2 three"
    assert source.read_text() == "one two three"


def test_mistake_that_no_seed_shows_is_an_error(source):
    with pytest.raises(mutate.BrokenError, match="NOT FOUND by 10 seeds"):
        mutate.plant(Sources(source), mutations.Mutation("", "", "two", "2"), seeds=10)
    assert source.read_text() == "one two three"


@pytest.mark.parametrize(("old", "times"), [("four", 0), ("e", 3)])
def test_text_that_is_gone_or_repeated_is_an_error(source, old, times):
    with pytest.raises(mutate.BrokenError, match=f"occurs {times} times"):
        mutate.plant(Sources(source, 1), mutations.Mutation("", "", old, "x"), seeds=10)
