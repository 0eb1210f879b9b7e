"""A whole benchmark: the slice, the ceiling, the rounds, and what follows from them."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from pairgrade.agreement import check_scale
from pairgrade.bench.ceiling import Ceiling, measure_ceiling
from pairgrade.bench.cell_figures import cell_figures
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import CellJob, CellRun
from pairgrade.bench.frontier import dominated
from pairgrade.bench.judged import MEASURES, against_people, against_reference, read_judged
from pairgrade.bench.matrix import Cell, Matrix, chosen_models, names
from pairgrade.bench.peers import not_measured
from pairgrade.bench.portable import PortableNames
from pairgrade.bench.prices import MachinePrice, age_warning, load_prices
from pairgrade.bench.results import ApiCost, BenchResult, CellResult, load_beside
from pairgrade.bench.rounds import Measured, Told, measure_rounds
from pairgrade.bench.slice import take_slice, write_slice
from pairgrade.environment import environment
from pairgrade.errors import InputError, ModelError, PairgradeError
from pairgrade.model_choice import Choice
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.stop import PoliteStop


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What is done beside the measuring."""

    prices: Path | None = None  # a price table; None: the shipped one
    measure: str = "quadratic_kappa"  # the agreement that the frontier is drawn by
    resamples: int = 1000  # of the bootstrap of agreement
    ceiling: bool = True
    base: Path | None = None  # the folder that paths in the result are relative to; None: the working directory

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise InputError(f"no measure '{self.measure}'; there are {', '.join(MEASURES)}")


def bench(
    matrix: Matrix,
    options: BenchOptions | None = None,
    tell: Told = lambda _: None,
    stop: PoliteStop | None = None,
) -> BenchResult:
    """Measure every cell; one that cannot be measured is listed with the reason.

    InputError for an unusable matrix or data; ModelError where no cell at all can be measured; StopRequested after a
    signal in the first round: in a later one the rounds before it are the result, and behind the rounds all of them.
    """
    options = options or BenchOptions()
    prices = load_prices(options.prices)
    machine = prices.machine(matrix.machine) if matrix.machine else None
    pairs = take_slice(matrix.data)
    _check_grades(matrix, pairs)
    cells = list(matrix.cells())
    references = matrix.reference_cells()
    choices = chosen_models([*cells, *references.values()], cuda=matrix.provider == "cuda")
    references = {rubric: _running(cell, choices) for rubric, cell in references.items()}
    cells = list(dict.fromkeys([*(_running(cell, choices) for cell in cells), *references.values()]))
    portable = PortableNames(matrix, options.base or Path.cwd())
    shown = [portable.cell(cell) for cell in cells]
    titles = names(shown)
    began = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        digest = write_slice(path, pairs)
        threads = sorted({cell.threads for cell in cells}) if options.ceiling else []
        ceilings = _ceilings(threads, tell)
        measured = measure_rounds(titles, _measurer(cells, matrix, path), matrix.rounds, tell)
        if stop is not None:
            stop.hold()
        if stop is None or stop.number is None:
            ceilings = {one: ceilings[one].or_higher(again) for one, again in _ceilings(threads, tell).items()}
        tell("agreement")
        judged = {
            place: read_judged(_out(path, place, cells[place], 0), Rubric.load(cells[place].rubric).values)
            for place, runs in enumerate(measured.runs)
            if runs
        }
    if not judged:
        raise ModelError("; ".join(f"{titles[place]}: {why}" for place, why in measured.failed.items()))
    usd = machine.usd_per_hour if machine else matrix.usd_per_hour
    origins = {rubric: judged.get(cells.index(cell)) for rubric, cell in references.items()}
    figures = []
    for place, own in judged.items():
        cell = cells[place]
        found = cell_figures(cell, titles[place], measured.runs[place], ceilings.get(cell.threads), usd)
        origin = origins.get(cell.rubric)
        equal, divergence = against_reference(own, origin) if origin else (None, None)
        people = against_people(own, pairs, options.resamples)
        found = replace(found, model=shown[place].model, rubric=shown[place].rubric, agreement=people)
        figures.append(replace(found, reference_agreement=equal, reference_kl=divergence))
    finished = _with_frontier(figures, options.measure)
    tokens = _tokens_per_pair(finished)
    apis = tuple(ApiCost(api, api.usd_per_million_pairs(tokens)) for api in prices.apis) if tokens else ()
    told = [f"Of several exports: {portable.text(choice.why)}." for choice in choices.values() if choice.why]
    return BenchResult(
        date=began,
        settings=json.loads(json.dumps(asdict(portable.matrix(matrix)))),  # lists for tuples, as it is read back
        data=_about(pairs, digest),
        environment=environment(),
        ceilings=tuple(ceilings.values()),
        rounds=measured.rounds,
        stopped=measured.stopped,
        usd_per_hour=usd,
        machine=machine,
        measure=options.measure,
        cells=finished,
        skipped={titles[place]: portable.text(why) for place, why in measured.failed.items()}
        | not_measured(matrix.engines),
        apis=apis,
        notes=(
            *told,
            *_notes(measured, machine, matrix, finished),
            *_no_frontier(finished, options.measure),
            *_priced(tokens, apis),
            *_old_prices(machine, apis),
        ),
    )


def _check_grades(matrix: Matrix, pairs: Sequence[Pair]) -> None:
    """Raise InputError, before anything is measured, where human grades are too far off for agreement with them."""
    grades = {pair.grade for pair in pairs if pair.grade is not None}
    for rubric in matrix.rubrics if grades else ():
        with suppress(PairgradeError):  # its cells tell what is wrong with it
            grades.update(Rubric.load(rubric).values)
    if grades:
        check_scale(min(grades), max(grades))


def _ceilings(threads: Iterable[int], tell: Told) -> dict[int, Ceiling]:
    found = {}
    for count in threads:
        tell(f"the ceiling of {count} thread(s)")
        found[count] = measure_ceiling(count)
    return found


def _measurer(cells: Sequence[Cell], matrix: Matrix, path: Path) -> Callable[[int, int], CellRun]:
    def measure(place: int, round_: int) -> CellRun:
        cell = cells[place]
        out = _out(path, place, cell, round_)
        return measure_cell(
            CellJob(
                cell.model, cell.engine, cell.rubric, cell.threads, cell.batch_tokens, matrix.context, str(path),
                str(out), gpu_layers=matrix.gpu_layers, sequences=matrix.sequences, provider=matrix.provider,
            )
        )  # fmt: skip

    return measure


def _out(path: Path, place: int, cell: Cell, round_: int) -> Path:
    """Name the file of a cell's judgments; an engine that gives grades alone writes qrels."""
    suffix = "jsonl" if cell.engine == "pairgrade" else "qrels"
    return path.with_name(f"{place}-{round_}.{suffix}")


def _with_frontier(results: Sequence[CellResult], measure: str) -> tuple[CellResult, ...]:
    """Mark the dominated cells, by seconds a pair, to which the dollars are proportional."""
    values = [result.agreement[measure].value if measure in result.agreement else None for result in results]
    known = [place for place, value in enumerate(values) if value is not None]
    points = [(1 / results[place].pairs_per_second.median, values[place] or 0.0) for place in known]
    marks = dict(zip(known, dominated(points), strict=True))
    return tuple(replace(result, dominated=marks.get(place, False)) for place, result in enumerate(results))


def _tokens_per_pair(cells: Sequence[CellResult]) -> float | None:
    """Return the tokens of a prompt by which hosted models are priced: the median of the cells'."""
    known = [cell.prompt_tokens_per_pair for cell in cells if cell.prompt_tokens_per_pair]
    return statistics.median(known) if known else None


def _running(cell: Cell, choices: dict[str, Choice]) -> Cell:
    """Return a cell with the model that runs in the place of a folder of several."""
    choice = choices.get(cell.model) if cell.engine == "pairgrade" else None
    return replace(cell, model=choice.model) if choice else cell


def _about(pairs: Sequence[Pair], digest: str) -> dict[str, Any]:
    return {
        "pairs": len(pairs),
        "queries": len({pair.query_id for pair in pairs}),
        "graded": sum(pair.grade is not None for pair in pairs),
        "characters": sum(len(pair.query) + len(pair.title) + len(pair.document) for pair in pairs),
        "sha256": digest,
    }


def _no_frontier(cells: Sequence[CellResult], measure: str) -> list[str]:
    """Say so where no cell has the agreement that the frontier is drawn by."""
    if any(cell.agreement[measure].value is not None for cell in cells if measure in cell.agreement):
        return []
    known = {name for cell in cells for name, value in cell.agreement.items() if value.value is not None}
    others = f"; --measure can be {', '.join(sorted(known))}" if known else ", for there is no agreement with people"
    return [f"No frontier: the {MEASURES[measure]} of no cell is known on these pairs{others}."]


def _priced(tokens: float | None, apis: Sequence[ApiCost]) -> list[str]:
    if not apis or tokens is None:
        return []
    return [
        f"Hosted models: the price of {tokens:,.0f} tokens a pair, the median of the cells; their own tokenizers "
        "may make more or fewer of the same prompt."
    ]


def _old_prices(machine: MachinePrice | None, apis: Sequence[ApiCost]) -> list[str]:
    """Warn about each price of the report that is old."""
    dated = [(machine.type, machine.date)] if machine else []
    dated += [(f"{cost.price.provider} {cost.price.model}", cost.price.date) for cost in apis]
    found = (age_warning(name, day, date.today()) for name, day in dated)
    return [warning[0].upper() + warning[1:] + "." for warning in found if warning]


def _notes(measured: Measured, machine: MachinePrice | None, matrix: Matrix, cells: Sequence[CellResult]) -> list[str]:
    """Say what a reader of the figures should know."""
    notes = [f"Rounds: {measured.rounds}; {measured.stopped}."]
    if measured.rounds < 5:
        notes.append("With fewer than 5 rounds no interval of a median covers 90%.")
    busy = load_beside(cells)
    if busy is not None:
        notes.append(
            f"Other processes kept up to {busy:.1f} cores busy meanwhile: the figures are no measure of speed."
        )
    if machine:
        notes.append(
            f"Dollars: as if {machine.provider} {machine.type} at {machine.usd_per_hour} USD an hour "
            f"({machine.source}, {machine.date}) ran at the speed measured here."
        )
    elif matrix.usd_per_hour:
        notes.append(
            f"Dollars: at {matrix.usd_per_hour} USD an hour, the whole machine, however many threads are used."
        )
    loose = [cell.name for cell in cells if not cell.bound]
    if loose:
        notes.append(f"Bound to no CPUs, for there are fewer cores than threads or no way to bind: {', '.join(loose)}.")
    if any(cell.unparsed for cell in cells):
        listed = ", ".join(f"{cell.name}: {cell.unparsed}" for cell in cells if cell.unparsed)
        notes.append(f"Pairs without a grade, left out of rates and agreement: {listed}.")
    return notes
