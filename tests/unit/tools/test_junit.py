# SPDX-License-Identifier: Apache-2.0
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def load_tool(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


junit = load_tool("junit")

PYTEST = """<testsuites><testsuite name="pytest">
<testcase classname="tests.unit.test_a" name="test_good"/>
<testcase classname="tests.unit.test_a" name="test_bad">
  <failure message="assert 1 == 2&#10;more">long text</failure></testcase>
<testcase classname="tests.unit.test_a" name="test_broken"><error message="no fixture"/></testcase>
<testcase classname="tests.unit.test_a" name="test_idle">
  <skipped type="pytest.skip" message="no network namespaces"/></testcase>
</testsuite></testsuites>"""

CTEST = """<testsuite>
<testcase name="Ids.Good" classname="Ids.Good" status="run"><system-out>ok</system-out></testcase>
<testcase name="Ids.Bad" classname="Ids.Bad" status="fail"><failure message="Failed"/>
<system-out>[ RUN      ] Ids.Bad
/src/test_ids.cpp:6: Failure
Expected equality of these values:
  1</system-out></testcase>
<testcase name="Ids.Idle" classname="Ids.Idle" status="notrun">
<skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/>
<system-out>[ RUN      ] Ids.Idle
/src/test_ids.cpp:5: Skipped
needs the moon

[  SKIPPED ] Ids.Idle (0 ms)</system-out></testcase>
</testsuite>"""


def test_pytest_report(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(PYTEST)
    report = junit.read_report(path)
    assert report.passed == 1
    assert report.failures == [
        "tests.unit.test_a.test_bad: assert 1 == 2",
        "tests.unit.test_a.test_broken: no fixture",
    ]
    assert report.skipped == ["tests.unit.test_a.test_idle: no network namespaces"]


def test_ctest_report_takes_reasons_from_what_googletest_printed(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(CTEST)
    report = junit.read_report(path)
    assert report.passed == 1
    assert report.failures == [
        "Ids.Bad: /src/test_ids.cpp:6: Failure Expected equality of these values:"
    ]
    assert report.skipped == ["Ids.Idle: needs the moon"]


def test_report_cut_short_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(PYTEST[:100])
    assert junit.read_report(path).empty
