"""A recording on disk: one Parquet file per recorded step, so that a crash loses nothing that was recorded.

run.json             what was recorded of what: probes' fingerprint, vocabulary, versions, whatever the caller adds
probes.jsonl         the probes themselves
step-00000120.parquet
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eft_ext._extras import needs
from eft_ext.dynamics.probes import ProbeSet

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1


class Store:
    """The folder of a recording, opened to write.

    Args:
        path: made if missing.
        probes: what is recorded.
        about: goes into run.json.
        continues_at: the step that training goes on from; steps recorded beyond it are dropped, since they belong to a
            run that did not get as far as its next checkpoint. None: a new recording.
        overwrite: a new recording may take the place of an old one.

    Raises:
        ValueError: a new recording where there is one already, or a continued one of other probes.
        ImportError: pyarrow is missing.
    """

    def __init__(
        self,
        path: str | Path,
        probes: ProbeSet,
        about: Mapping[str, Any],
        continues_at: int | None = None,
        overwrite: bool = False,
    ) -> None:
        require_pyarrow()
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob("*.tmp"):
            left.unlink()
        found = read_about(self.path)
        if continues_at is not None and found is not None:
            if found["probes"] != probes.fingerprint:
                raise ValueError(f"path: {self.path} records other probes; continue with its probes.jsonl")
            self.about: dict[str, Any] = found
            self._drop(continues_at + 1)
            return
        if found is not None and self.steps and not overwrite:
            steps = self.steps
            raise ValueError(
                f"path: {self.path} has a recording already (steps {steps[0]} to {steps[-1]}); pass overwrite=True"
            )
        self._drop(0)
        self.about = {
            "format": FORMAT,
            "probes": probes.fingerprint,
            "types": list(probes.types),
            "versions": {name: version(name) for name in ("torch", "transformers", "pyarrow")},
            **about,
        }
        self.write_about({})
        probes.to_jsonl(self.path / "probes.jsonl")

    @property
    def steps(self) -> list[int]:
        """Those on disk, ascending."""
        return sorted(int(file.stem.removeprefix("step-")) for file in self.path.glob("step-*.parquet"))

    def write(self, step: int, table: pyarrow.Table) -> None:
        """Whole or not at all: written under another name, synchronised, then renamed."""
        import pyarrow.parquet as parquet

        def to(file: Path) -> None:
            parquet.write_table(table, file, compression="zstd")

        _atomically(self.path / f"step-{step:08d}.parquet", to)

    def write_about(self, more: Mapping[str, Any]) -> None:
        self.about |= more
        text = json.dumps(self.about, indent=2, default=str) + "\n"
        _atomically(self.path / "run.json", lambda file: file.write_text(text))

    def _drop(self, first: int) -> None:
        for step in self.steps:
            if step >= first:
                (self.path / f"step-{step:08d}.parquet").unlink()


def read_about(path: Path) -> dict[str, Any] | None:
    """run.json, or None if there is none.

    Raises:
        ValueError: a recording of a later version.
    """
    try:
        about: dict[str, Any] = json.loads((path / "run.json").read_text())
    except FileNotFoundError:
        return None
    if about.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a recording of format {FORMAT}, got {about.get('format')}")
    return about


def require_pyarrow() -> None:
    with needs("a recording", "dynamics"):
        import pyarrow  # noqa: F401


def _atomically(target: Path, write: Any) -> None:
    partial = target.with_name(target.name + ".tmp")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
