"""libiscsi's iscsi-test-cu: run whole, and what it said of each test."""

import re
from dataclasses import dataclass

from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
_LIMIT_S = 1800
_SUITE = re.compile(r"^Suite: (\S+)$", re.MULTILINE)
# A verdict stands right behind the dots, or on a line of its own below what the test printed.
_TEST = re.compile(
    r"^  Test: (\S+) \.\.\.(.*?)(?:(?<=\.\.\.)|^)(passed|FAILED)(.*?)(?=^  Test: |\Z)", re.M | re.S
)
_ASSERTION = re.compile(r"^ +\d+\. (.*?)(?:    \[SKIPPED\].*)?$", re.MULTILINE)
_SKIPPED = re.compile(r"\[SKIPPED\] (.*)")
_TOTALS = re.compile(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """Of one test, by its name `Suite.Test`; `why` is the first thing that it said."""

    name: str
    outcome: str
    why: str = ""


class Unreadable(Exception):
    """What the tool printed is not what it counted."""


def run_suite(guest: Guest, login: Login, tests: str = "ALL") -> list[Verdict]:
    """Everything that writes included; the unit by two sessions, for the tests of multipath."""
    url = f"iscsi://{login.user}%{login.secret}@{login.portal}/{login.iqn}/{login.lun}"
    words = ["iscsi-test-cu", "--dataloss", "--verbose", "--initiator-name", guest.initiator]
    words += ["--initiator-name-2", guest.initiator, "--test", tests, url, url]
    done = guest.run(words, timeout_s=_LIMIT_S, check=False)
    return read(done.stdout)


def read(text: str) -> list[Verdict]:
    """The verdicts in what the tool printed. Raises Unreadable if they are not as many as it counted."""
    verdicts = []
    pieces = _SUITE.split(text)
    for suite, body in zip(pieces[1::2], pieces[2::2], strict=True):
        for name, said, word, after in _TEST.findall(body):
            verdicts.append(_verdict(f"{suite}.{name}", said, word == "passed", after))
    totals = _TOTALS.search(text)
    counted = tuple(map(int, totals.groups())) if totals else ()
    failed = sum(one.outcome == FAILED for one in verdicts)
    if counted != (len(verdicts), len(verdicts), len(verdicts) - failed, failed):
        raise Unreadable(f"{len(verdicts)} verdicts, {failed} of them FAILED, but its totals are {counted}")
    return verdicts


def _verdict(name: str, said: str, passed: bool, after: str) -> Verdict:
    if not passed:
        found = _ASSERTION.search(after)
        return Verdict(name, FAILED, found[1] if found else "")
    skipped = _SKIPPED.search(said)
    return Verdict(name, SKIPPED, skipped[1]) if skipped else Verdict(name, PASSED)
