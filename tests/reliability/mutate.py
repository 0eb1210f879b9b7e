"""Deliberate faults put into a copy of the package, one at a time: which tests of this folder fail? On demand.

    python tests/reliability/mutate.py [--only WORD] [--out results.json [--resume]]

The faults and the tests that must notice them stand in ``faults.toml``; ``--only`` takes those with WORD in their
file, their text or their tests. The tree itself is not touched: packages, tests and documents are copied to a
temporary folder, and the tests run there, first without a fault, where they must pass. A fault is noticed where each
of its tests fails. With ``--out`` the results are kept as JSON, and those of an earlier run that are not run again
stay in it; ``--resume`` runs those only that it lacks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from faults import Fault

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "export", "train", "cli", "bench")
COPIED = (*PACKAGES, "tests", "docs", "pyproject.toml", "constraints.txt", "README.md")
LONGEST = 600  # seconds that the tests of one fault may take
WORKER = """
from contextlib import nullcontext
from pairgrade.fake import FakeTokenizer
from pairgrade.worker import WorkerBackend
WorkerBackend("fake:", lambda: nullcontext(FakeTokenizer()))
"""


class Copy:
    """A copy of the tree in which faults are put; what imports ``pairgrade`` there imports it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self._scratch = folder / "scratch"
        self.root.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
            else:
                shutil.copyfile(ROOT / name, self.root / name)
        site = folder / "site"
        site.mkdir()
        (site / "pairgrade").symlink_to(self.root / "engine")  # the package, as pyproject.toml maps it
        for name in PACKAGES[1:]:
            (self.root / "engine" / name).symlink_to(self.root / name)
        self.environment = os.environ | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        # byte code that is compared with its source by content: a changed file is never taken for the one before
        folders = [str(self.root / name) for name in PACKAGES]
        self._python("-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *folders)

    def check(self) -> None:
        """See that the copy is what is imported, in a worker process as well."""
        found = self._python("-c", "import pairgrade, pairgrade.train as t; print(pairgrade.__file__, t.__file__)")
        if found.stdout.count(str(self.root.parent)) != 2:
            sys.exit(f"the copy is not what is imported: {found.stdout}{found.stderr}")
        child = self.root / "engine" / "worker_child.py"
        sound = child.read_text(encoding="utf-8")
        child.write_text(f"{sound}\nraise ImportError('the copy')\n", encoding="utf-8")
        found = self._python("-c", WORKER)
        child.write_text(sound, encoding="utf-8")
        if "ImportError: the copy" not in found.stderr:
            sys.exit(f"a worker does not import the copy: {found.stderr}")
        if self._python("-c", WORKER).returncode:
            sys.exit("a worker of the sound copy does not start")

    def with_fault(self, fault: Fault) -> dict[str, set[str]]:
        """Put the fault in, run its tests and take it out again; see ``run``."""
        path = self.root / fault.source
        sound = path.read_text(encoding="utf-8")
        path.write_text(fault.applied(sound), encoding="utf-8")
        try:
            return self.run(fault.tests)
        finally:
            path.write_text(sound, encoding="utf-8")

    def run(self, tests: Sequence[str], longest: float | None = LONGEST) -> dict[str, set[str]]:
        """Run tests; return the outcomes of each test function: passed, failure, skipped, error of a fixture."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        shutil.rmtree(self.root / ".hypothesis", ignore_errors=True)  # examples that an earlier fault left
        report = self._scratch.with_suffix(".xml")
        report.unlink(missing_ok=True)
        options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(self._scratch), "--junitxml", str(report)]
        command = [sys.executable, "-m", "pytest", *options, *(f"tests/reliability/{test}" for test in tests)]
        process = subprocess.Popen(
            command, cwd=self.root, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            said, _ = process.communicate(timeout=longest)
        except subprocess.TimeoutExpired:
            said = f"no end within {longest} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what its tests may have left
            process.wait()
        if not report.exists():
            _tell(f"    no report: {said[-500:]}")
            return {}
        outcomes: dict[str, set[str]] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            module, name = str(case.get("classname")).rpartition(".")[2], str(case.get("name")).partition("[")[0]
            found = [element.tag for element in case if element.tag in ("failure", "skipped", "error")]
            outcomes.setdefault(f"{module}.py::{name}", set()).update(found or ["passed"])
        return outcomes

    def _python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)


def main() -> None:
    """Put in the faults that the command line names and print what noticed them."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="faults with WORD in file, text or tests")
    parser.add_argument("--out", type=Path, metavar="FILE", help="keep the results as JSON")
    parser.add_argument("--resume", action="store_true", help="run only what FILE has no result of")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from faults import all_tests, load_faults

    faults = load_faults()
    chosen = [fault for fault in faults if arguments.only in " ".join((fault.source, fault.old, *fault.tests))]
    known = {_key(fault) for fault in faults}
    results: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        earlier = json.loads(arguments.out.read_text(encoding="utf-8"))
        results = {key: result for key, result in earlier.items() if key in known}
    if arguments.resume:
        chosen = [fault for fault in chosen if _key(fault) not in results]
    if chosen:
        _put_in(chosen, results, arguments.out)
    noticed = sum(not result["missed"] for result in results.values())
    tests = all_tests()
    never = sorted(set(tests) - {test for result in results.values() for test in result["failed"]})
    _tell(f"\n{noticed} of {len(results)} faults noticed")
    _tell(f"{len(tests) - len(never)} of {len(tests)} test functions failed")
    for test in [] if arguments.only else never:
        _tell(f"    never failed: {test}")
    sys.exit(noticed < len(results))


def _put_in(faults: Sequence[Fault], results: dict[str, Any], out: Path | None) -> None:
    """Run the tests of some faults without and with each of them, and add what came of it to ``results``."""
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        copy = Copy(Path(scratch))
        copy.check()
        named = sorted({test for fault in faults for test in fault.tests})
        start, sound = time.monotonic(), copy.run(named, None)
        unsound = [test for test in named if sound.get(test, {"error"}) & {"failure", "error"}]
        if unsound:
            sys.exit(f"these tests fail without a fault: {', '.join(unsound)}")
        skipped = {test for test in named if "passed" not in sound[test]}
        _tell(f"{len(named)} tests pass without a fault ({time.monotonic() - start:.0f} s)")
        for test in sorted(skipped):
            _tell(f"    skipped here: {test}")
        for fault in faults:
            start = time.monotonic()
            outcomes = copy.with_fault(fault)
            failed = sorted(test for test, found in outcomes.items() if "failure" in found)
            missed = sorted(set(fault.tests) - skipped - set(failed))
            _tell(f"{'NOT NOTICED' if missed else 'noticed':11} {fault.name} ({time.monotonic() - start:.0f} s)")
            for test in fault.tests:
                _tell(f"    {'failed' if test in failed else 'passed'}  {test}")
            results[_key(fault)] = {"fault": fault.name, "failed": failed, "missed": missed}
            if out:
                out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _key(fault: Fault) -> str:
    return json.dumps([fault.source, fault.old, fault.new, fault.tests])


if __name__ == "__main__":
    main()
