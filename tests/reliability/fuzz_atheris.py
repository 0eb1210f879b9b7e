"""Coverage-guided fuzzing of one reader, on demand; atheris (https://github.com/google/atheris) must be installed.

    python tests/reliability/fuzz_atheris.py NAME [-max_total_time=60] [other options of libFuzzer] [CORPUS]

NAME is one of the targets of ``tests/fuzz_targets.py``; without one they are listed. An input on which a reader
raises anything but an error of pairgrade's own, hangs or takes too much memory ends the run with a message, and is
left beside it as ``crash-*``, ``timeout-*`` or ``oom-*``.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main() -> None:
    """Fuzz the target that the command line names until libFuzzer's limits, 60 seconds if none is given."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; it is on PyPI for Linux and macOS: pip install atheris")
    sys.path.insert(0, str(TESTS))
    quiet = contextlib.redirect_stderr(io.StringIO())  # it names every module
    with quiet, atheris.instrument_imports(include=["pairgrade"]):
        from fuzz_targets import targets
        from pairgrade.errors import PairgradeError
    with tempfile.TemporaryDirectory() as scratch:
        known = targets(Path(scratch))
        name = sys.argv[1] if len(sys.argv) > 1 else ""
        if name not in known:
            sys.exit(f"usage: fuzz_atheris.py NAME [options of libFuzzer]; NAME is one of: {', '.join(known)}")
        target, folder, corpus = known[name], Path(scratch) / "run", Path(scratch) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        for number, sound in enumerate(target.sound):
            (corpus / str(number)).write_bytes(sound)

        def one_input(data: bytes) -> None:
            with contextlib.suppress(PairgradeError):
                target.run(data, folder)

        limits = ["-max_total_time=60", "-max_len=4096", "-timeout=20", "-rss_limit_mb=1500"]
        given = sys.argv[2:]
        options = [limit for limit in limits if not any(o.startswith(limit.split("=")[0]) for o in given)]
        atheris.Setup([sys.argv[0], *options, *given, str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
