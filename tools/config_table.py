# SPDX-License-Identifier: Apache-2.0
"""Keeps the README's configuration table equal to mooncake_connector/config.py.

    tools/config_table.py README.md           rewrites the table between its two markers
    tools/config_table.py --check README.md   exits with 1 if that would change anything

The options, their types, defaults and descriptions are read from the source text, so that neither
the package nor its extension modules need to be built.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path(__file__).resolve().parent.parent / "mooncake_connector" / "config.py"
BEGIN = "<!-- configuration: written by tools/config_table.py -->"
END = "<!-- end of configuration -->"
HEADINGS = {
    "EngineConfig": "Every engine",
    "ConnectorConfig": "Inside a serving engine",
}


def options(class_body: list[ast.stmt]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and description of each field; the string below a field describes it."""
    for field, after in itertools.pairwise(class_body):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        name = field.target.id
        match after:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                description = " ".join(text.replace("``", "`").split())
            case _:
                raise SystemExit(f"{CONFIG.name}: the option {name} has no description below it")
        yield name, ast.unparse(field.annotation), default(field.value), description


def default(value: ast.expr | None) -> str:
    """A default as JSON writes it; empty for "not set"."""
    match value:
        case ast.Constant(value=None) | ast.Tuple(elts=[]):
            return ""
        case ast.Constant(value=constant):
            return json.dumps(constant)
        case ast.BinOp(ast.Constant(int() as number), ast.LShift(), ast.Constant(int() as bits)):
            return str(number << bits)
        case _:
            raise SystemExit(f"{CONFIG.name}: cannot write the default {ast.dump(value)} as JSON")


def table(source: str) -> str:
    """The Markdown between the markers."""
    lines = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.ClassDef) and statement.name in HEADINGS:
            lines += ["", f"**{HEADINGS[statement.name]}**", ""]
            lines += ["| option | default | meaning |", "|---|---|---|"]
            for name, kind, value, description in options(statement.body):
                cells = (f"`{name}`", f"`{value}`" if value else "", describe(kind, description))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def describe(kind: str, description: str) -> str:
    """A choice of words belongs to what an option means; other types show in the default."""
    choices = re.fullmatch(r"Literal\[(.*)\]", kind)
    if choices:
        description += " One of " + choices[1].replace("'", "`") + "."
    return description.replace("|", r"\|")


def rewritten(readme: str, source: str) -> str:
    """The README with a current table."""
    if BEGIN not in readme or END not in readme:
        raise SystemExit(f"the README lacks the markers {BEGIN} and {END}")
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{table(source)}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    old = arguments.readme.read_text()
    new = rewritten(old, CONFIG.read_text())
    if arguments.check:
        if old != new:
            print(f"{arguments.readme}: run tools/config_table.py {arguments.readme}")
        return int(old != new)
    arguments.readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
