# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse

import pytest

from mooncake_connector.cli import main
from mooncake_connector.cli.bench import options as bench_options
from mooncake_connector.cli.bench.options import GIB, KIB, MIB, Options, size_text


def parse(*arguments: str) -> Options:
    parser = argparse.ArgumentParser()
    bench_options.add_arguments(parser)
    return bench_options.from_arguments(parser.parse_args(arguments))


def test_defaults_of_the_command_line_are_those_of_the_class() -> None:
    assert parse() == Options()


def test_every_option_is_read() -> None:
    found = parse(
        "--parts", "latency,copies", "--sizes", "16MiB,256,4k", "--patterns", "comb", "--paths",
        "tcp,shm", "--rounds", "3", "--seconds", "0.5", "--region", "1G", "--verify", "every",
        "--timeout", "7", "--json", "out.json", "--require",
    )  # fmt: skip
    assert found.parts == ("copies", "latency")
    assert found.sizes == (256, 4 * KIB, 16 * MIB)
    assert found.patterns == ("comb",)
    assert found.paths == ("shm", "tcp")
    assert (found.rounds, found.seconds, found.region) == (3, 0.5, GIB)
    assert (found.verify, found.timeout, found.require) == ("every", 7.0, True)
    assert str(found.json) == "out.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "copies,speed"], "unknown part 'speed'; choose from copies, latency"),
        (["--sizes", "12Q"], "'12Q' is not a size such as 256, 4K or 16MiB"),
        (["--sizes", "0"], "page size 0 is not a positive multiple of 8"),
        (["--sizes", "100"], "page size 100 is not a positive multiple of 8"),
        (["--sizes", "4M", "--region", "4M"], "--region must hold at least two pages of the"),
        (["--patterns", "stripes"], "unknown pattern 'stripes'; choose from random, comb"),
        (["--paths", "rdma"], "unknown path 'rdma'; choose from auto, shm, cma, tcp"),
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--rounds", "many"], "'many' is not a whole number of at least 1"),
        (["--seconds", "-1"], "'-1' is not a number above 0"),
        (["--seconds", "inf"], "'inf' is not a number above 0"),
        (["--region", "1M"], "'1M' is not a multiple of 8 of at least 4M"),
        (["--verify", "never"], "invalid choice: 'never'"),
    ],
)
def test_a_bad_argument_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fly"])
    assert exit_.value.code == 2
    assert "bench" in capsys.readouterr().err


def test_an_unwritable_json_file_is_found_out_first(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--json", f"{tmp_path}/no/such/folder/out.json"]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("size", "text"), [(256, "256 B"), (1000, "1000 B"), (4 * KIB, "4 KiB"), (16 * MIB, "16 MiB")]
)
def test_sizes_are_written_in_their_largest_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize("block", [8, 256, KIB, 64 * KIB, MIB, 2 * MIB])
def test_a_transfer_is_whole_pages_and_at_most_half_of_the_region(block: int) -> None:
    options = Options(region=4 * MIB)
    assert options.transfer_bytes(block) % block == 0
    assert 0 < options.transfer_bytes(block) <= options.region // 2
