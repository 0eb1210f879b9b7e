"""The loop of a labelling run: what the journal lacks of the input is judged, window by window, and written to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pairgrade.annotator import Annotator, Unfit
from pairgrade.canaries import Canaries, Watch, forget_unchecked
from pairgrade.heartbeat import Heartbeat
from pairgrade.journal import Entry, Journal, read_entries
from pairgrade.progress import Clock, Progress
from pairgrade.records import Pair
from pairgrade.run_folder import RunFolder
from pairgrade.spool import Spool
from pairgrade.stop import PoliteStop, StopRequested
from pairgrade.summary import Effort
from pairgrade.windows import windows


class LabelLoop:
    """Labels in the folder of a run; with canaries it looks at them every so many pairs."""

    def __init__(
        self, folder: RunFolder, progress: Progress, stop: PoliteStop, canaries: Canaries | None, canary_every: int
    ) -> None:
        self._folder, self._progress, self._stop = folder, progress, stop
        self._canaries, self._canary_every = canaries, canary_every

    def run(
        self, annotator: Annotator, spool: Spool, identity: str, heartbeat: Heartbeat
    ) -> tuple[Effort, npt.NDArray[np.int64]]:
        """Label what the journal lacks; return where in it each row's outcome lies (8 bytes a row, -1 for gaps)."""
        offsets = np.full(spool.last_row + 1, -1, np.int64)
        with closing(Journal(self._folder.journal, identity)) as journal:
            resumed = self._resume(journal, offsets, heartbeat)
            self._progress.phase("labelling")
            self._progress.start(len(spool), resumed)
            before = replace(annotator.counters)
            clock = Clock()
            self._judge(annotator, spool, journal, offsets, heartbeat)
            journal.sync()
        after = annotator.counters
        effort = Effort(
            pairs=int((offsets >= 0).sum()) - resumed,
            resumed=resumed,
            seconds=clock.lap(),
            model_seconds=after.seconds - before.seconds,
            computed_tokens=after.computed - before.computed,
            reused_tokens=after.reused - before.reused,
        )
        return effort, offsets

    def _resume(self, journal: Journal, offsets: npt.NDArray[np.int64], heartbeat: Heartbeat) -> int:
        """Fill in what an earlier run left in the journal; return how many rows that is."""
        forget_unchecked(self._folder.canaries, journal)
        if self._canaries is None:
            self._folder.canaries.unlink(missing_ok=True)  # else what is judged now would be forgotten next time
        else:
            self._canaries.recall()
        unfit = 0
        for offset, entry in read_entries(self._folder.journal):
            if offsets[entry.row] < 0:
                offsets[entry.row] = offset
                unfit += entry.judgment is None
        resumed = int((offsets >= 0).sum())
        heartbeat.resume(resumed, unfit)
        return resumed

    def _judge(
        self,
        annotator: Annotator,
        spool: Spool,
        journal: Journal,
        offsets: npt.NDArray[np.int64],
        heartbeat: Heartbeat,
    ) -> None:
        rows: list[int] = []

        def pairs() -> Iterator[Pair]:
            for row, pair in spool.pairs(lambda row: bool(offsets[row] < 0)):
                rows.append(row)
                yield pair

        watch = Watch(self._canaries, annotator, journal, self._canary_every)
        try:
            for window in windows(pairs(), annotator.options.window):
                for batch in annotator.outcomes(window):
                    entries = [
                        Entry(rows[place], None, outcome.reason)
                        if isinstance(outcome, Unfit)
                        else Entry(rows[place], outcome)
                        for place, outcome in batch
                    ]
                    with self._stop.uninterrupted():
                        offsets[[entry.row for entry in entries]] = journal.append(entries)
                    heartbeat.advance(len(batch), sum(entry.judgment is None for entry in entries))
                    self._progress.advance(len(batch), annotator.counters)
                del rows[: len(window)]
                watch.advance(len(window))
        except StopRequested:
            watch.stopped()
            raise
        watch.end()
