"""Results in Google Test's form, where GTEST_OUTPUT asks for it: tools/test.sh counts every suite by that."""

import os
from xml.sax.saxutils import quoteattr

import pytest

_cases: dict[str, tuple[str, str]] = {}


def pytest_runtest_logreport(report):
    name = report.nodeid.split("/")[-1]
    if report.failed:
        _cases[name] = ("failed", report.longreprtext)
    elif report.skipped:
        _cases[name] = ("skipped", report.longrepr[2].removeprefix("Skipped: "))
    else:
        _cases.setdefault(name, ("passed", ""))


def pytest_collectreport(report):
    """A module that skips as a whole, or can't be imported."""
    if report.skipped:
        _cases[report.nodeid] = ("skipped", report.longrepr[2].removeprefix("Skipped: "))
    elif report.failed:
        _cases[report.nodeid] = ("failed", str(report.longrepr))


def pytest_sessionfinish(session, exitstatus):
    # A module that skips as a whole leaves no tests, which pytest takes for a failure: here it is skipped, as in Google
    # Test, and one that has none is not.
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and any(o == "skipped" for o, _ in _cases.values()):
        session.exitstatus = pytest.ExitCode.OK
    output = os.environ.get("GTEST_OUTPUT", "")
    if not output.startswith("xml:"):
        return
    path = output[len("xml:") :]
    path = os.path.join(path, f"test_{os.environ.get('COPPICE_SUITE', 'python')}.xml") if path.endswith("/") else path
    with open(path, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n')
        for name, (outcome, why) in _cases.items():
            status = "skipped" if outcome == "skipped" else "completed"
            head = f'<testcase name={quoteattr(name)} status="run" result="{status}" classname="Python"'
            if outcome == "passed":
                file.write(f"{head} />\n")
            else:
                inner = "failure" if outcome == "failed" else "skipped"
                message = quoteattr(why.replace("\n", "&#x0A;")).replace("&amp;#x0A;", "&#x0A;")
                file.write(f"{head}>\n<{inner} message={message} />\n</testcase>\n")
        file.write("</testsuites>\n")
