"""The benchmarks of pytest-pmaps, against the installed package: ``python benchmarks/run.py``.

Nothing here fails because of a number: what misses its goal is marked.  The exit status is 1
where something that this host can do could not be run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # PYTHONSAFEPATH keeps it out

import costs
import host
import noise
import speed
import suite
from host import Unavailable
from pytest_pmaps import PmapsError
from report import Figure, Missing, Report, as_json, as_markdown
from rivals import Rivals
from targets import Launcher, Workload, workloads

_PEAKS = ("sequential", "random", "mappings-65000", "sparse")
_IDLE = ("python", "forks", "sequential")
_QUICK = ("python", "sparse")  # of these, where one must do


class Benchmarks:
    """All rows by name; running one adds to the report."""

    def __init__(self, folder: Path, rounds: int, quick: bool) -> None:
        self.report = Report(host.environment(), quick, rounds)
        self._folder = folder
        self._launcher = Launcher(folder)
        self._rivals = Rivals(folder)
        self._workloads = {w.name: w for w in workloads(quick)}
        self.rows: dict[str, Callable[[], None]] = {
            **{name: self._speed_row(w) for name, w in self._workloads.items()},
            **{name: self._figures_row(name, make) for name, make in self._others().items()},
        }

    def run(self, names: list[str]) -> None:
        """Measure rows, until interrupted; what went wrong goes into the report too."""
        try:
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                self._try(name)
        except KeyboardInterrupt:
            left = ", ".join(names[names.index(name) :])
            self.report.failed.append(Missing(left, "interrupted"))

    def _try(self, name: str) -> None:
        try:
            self.rows[name]()
        except (PmapsError, RuntimeError, OSError) as exc:
            self.report.failed.append(Missing(name, f"{type(exc).__name__}: {exc}"))

    def _speed_row(self, workload: Workload) -> Callable[[], None]:
        def run() -> None:
            report = self.report
            try:
                one = speed.measure(workload, self._launcher, self._rivals, report.rounds)
            except Unavailable as exc:
                report.missing.append(Missing(workload.label, str(exc)))
                return
            report.speeds.append(one)
            for who, why in one.times.missing.items():
                report.missing.append(Missing(one.label, why, who))

        return run

    def _figures_row(self, name: str, make: Callable[[], Iterable[Figure]]) -> Callable[[], None]:
        def run() -> None:
            try:
                self.report.figures += make()
            except Unavailable as exc:
                self.report.missing.append(Missing(name, str(exc)))

        return run

    def _others(self) -> dict[str, Callable[[], Iterable[Figure]]]:
        launcher, rounds, quick = self._launcher, self.report.rounds, self.report.quick
        shapes = self._workloads
        found: dict[str, Callable[[], Iterable[Figure]]] = {
            "calls": lambda: costs.calls(launcher, self._rivals, shapes["sequential"]),
            "kept": lambda: costs.kept(launcher, shapes["sequential"], quick),
            "stall": lambda: costs.stalls(launcher, rounds, quick),
            "observer": costs.observer,
            "written": lambda: costs.windows(rounds, quick),
            "noise": lambda: noise.measure(quick),
            "plugin": lambda: suite.measure(self._folder, rounds, quick),
        }
        for name in _QUICK[1:] if quick else _PEAKS:
            found[f"peak-{name}"] = partial(costs.peak, launcher, shapes[name])
        for name in _QUICK[:1] if quick else _IDLE:
            found[f"idle-{name}"] = partial(costs.idle, launcher, shapes[name])
        return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    add = parser.add_argument
    add("--only", action="append", metavar="ROW", help="measure this row (may be given again)")
    add("--list", action="store_true", help="name the rows, and end")
    add("--rounds", type=_positive, help="how often everything is measured (default: 9)")
    add("--quick", action="store_true", help="small and once: it only shows that everything runs")
    add("--json", type=Path, metavar="FILE", help="write everything, as JSON")
    add("--markdown", type=Path, metavar="FILE", help="write the tables; they are printed anyway")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of rounds: {text}")
    return int(text)


def _chosen(rows: Iterable[str], only: list[str] | None) -> Iterator[str]:
    known = list(rows)
    for name in only or known:
        if name not in known:
            raise SystemExit(f"no row {name!r}: there are {', '.join(known)}")
        yield name


def main() -> int:
    """Measure, and print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind
    arguments = _arguments()
    rounds = arguments.rounds or (1 if arguments.quick else 9)
    with tempfile.TemporaryDirectory(prefix="pmaps-bench-") as folder:
        benchmarks = Benchmarks(Path(folder), rounds, arguments.quick)
        if arguments.list:
            print(*benchmarks.rows, sep="\n")
            return 0
        benchmarks.run(list(_chosen(benchmarks.rows, arguments.only)))
    report = benchmarks.report
    tables = as_markdown(report)
    print(tables, end="")
    if arguments.markdown:
        arguments.markdown.write_text(tables, encoding="utf-8")
    if arguments.json:
        arguments.json.write_text(json.dumps(as_json(report), indent=1) + "\n", encoding="utf-8")
    return 1 if report.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PmapsError as exc:  # nothing to measure: no engine, or no /proc
        sys.exit(str(exc))
