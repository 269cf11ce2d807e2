"""The study's figures in two small Parquet files, from which every finding is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from eft_ext._files import replacing

Rows = list[dict[str, Any]]
_COLUMNS = {
    "curves": {"seed", "run", "kind", "step", "type", "probe", "log_prob", "argmax_log_prob_mean"},
    "grades": {"seed", "run", "kind", "who", "question", "fact", "format", "confidence", "log_prob", "length"},
}
FILES = tuple(f"{name}.parquet" for name in _COLUMNS)


@dataclass(frozen=True)
class StudyRecord:
    """Rows as `run_seed` returns them, of all seeds.

    Written, curves of the first seed keep every probe, and the others their mean over probes, as probe −1.
    """

    curves: Rows
    grades: Rows

    def write(self, folder: Path) -> None:
        """curves.parquet and grades.parquet."""
        first = min(row["seed"] for row in self.curves)
        whole = [row for row in self.curves if row["seed"] == first]
        for name, rows in (("curves", whole + _means(self.curves)), ("grades", self.grades)):
            table = pa.Table.from_pylist(rows)
            for i, field in enumerate(table.schema):
                column = table.column(i)
                if pa.types.is_floating(field.type):  # four digits are more than any interval needs
                    column = pa.array(np.round(column.to_numpy(), 3), pa.float32())
                elif pa.types.is_integer(field.type):
                    column = column.cast(pa.int16())
                table = table.set_column(i, field.name, column)
            with replacing(folder / f"{name}.parquet") as stream:
                parquet.write_table(table, stream, compression="zstd", compression_level=19)

    @classmethod
    def read(cls, folder: Path) -> StudyRecord:
        """Raises ValueError, naming the file, where one is missing, broken, or no record's."""
        return cls(*(_rows(folder / file, wanted) for file, wanted in zip(FILES, _COLUMNS.values(), strict=True)))

    @cached_property
    def _by_run(self) -> dict[tuple[str, str, str, bool], Rows]:
        groups: dict[tuple[str, str, str, bool], Rows] = {}
        for row in self.curves:
            groups.setdefault((row["run"], row["kind"], row["type"], row["probe"] >= 0), []).append(row)
        return groups

    def curve(self, run: str, kind: str, response: str, statistic: str = "log_prob", probe: bool = True) -> Any:
        """(steps, values): the first seed's, [steps, probes], or with probe=False the means of all seeds, [steps,
        seeds].

        Raises:
            ValueError: nothing of that name was recorded.
        """
        rows = self._by_run.get((run, kind, response, probe))
        if not rows:
            raise ValueError(f"run, kind, response: expected a recorded run, got {run!r}, {kind!r}, {response!r}")
        steps = sorted({row["step"] for row in rows})
        members = sorted({(row["seed"], row["probe"]) for row in rows})
        values = np.empty((len(steps), len(members)))
        for row in rows:
            values[steps.index(row["step"]), members.index((row["seed"], row["probe"]))] = row[statistic]
        return np.array(steps), values

    def grade(self, run: str, kind: str, who: str, name: str) -> np.ndarray:
        """[seeds, questions] of one figure: fact, format, confidence, log_prob or length.

        Raises:
            ValueError: nothing of that name was recorded.
        """
        rows = [row for row in self.grades if (row["run"], row["kind"], row["who"]) == (run, kind, who)]
        if not rows:
            raise ValueError(f"run, kind, who: expected a graded model, got {run!r}, {kind!r}, {who!r}")
        rows.sort(key=lambda row: (row["seed"], row["question"]))
        seeds = len({row["seed"] for row in rows})
        return np.array([row[name] for row in rows], dtype=np.float64).reshape(seeds, -1)


def _rows(file: Path, wanted: set[str]) -> Rows:
    if not file.is_file():
        raise ValueError(f"{file}: expected a file of python -m eft_ext.demo.dynamics, found none")
    try:
        table = parquet.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not Parquet that can be read ({error})") from error
    if missing := sorted(wanted - set(table.column_names)):
        raise ValueError(f"{file}: expected the columns of python -m eft_ext.demo.dynamics, found no {missing[0]}")
    rows: Rows = table.to_pylist()
    return rows


def _means(curves: Rows) -> Rows:
    groups: dict[tuple[Any, ...], Rows] = {}
    for row in curves:
        groups.setdefault((row["seed"], row["run"], row["kind"], row["step"], row["type"]), []).append(row)
    means = []
    for (seed, run, kind, step, response), rows in groups.items():
        mean = {name: float(np.mean([r[name] for r in rows])) for name in ("log_prob", "argmax_log_prob_mean")}
        means.append({"seed": seed, "run": run, "kind": kind, "step": step, "type": response, "probe": -1} | mean)
    return means
