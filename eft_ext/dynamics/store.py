"""A recording on disk: one Parquet file per recorded step, so that a crash loses nothing that was recorded.

run.json             what was recorded of what: probes' fingerprint, vocabulary, versions, whatever the caller adds
probes.jsonl         the probes themselves
step-00000120.parquet
run.lock             held by whoever writes
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from eft_ext import _json
from eft_ext._extras import needs
from eft_ext._files import Lock, check_folder, filling, replacing
from eft_ext._jsonl import read_object
from eft_ext.dynamics.probes import ProbeSet

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})\.parquet")
_OWN = rf"run\.json|probes\.jsonl|{_STEP.pattern}"
_LEFT = re.compile(rf"({_OWN})\.([0-9a-f]{{8}}\.)?tmp")  # by a writer that was killed
_writers: WeakValueDictionary[str, Store] = WeakValueDictionary()


class Store:
    """The folder of a recording, opened to write, which one Store at a time may do.

    Another process is kept out until `close`, the end of this object or of the process. In this process a later Store
    takes the folder over, so that a notebook's cell can be run again.

    Args:
        path: made if missing.
        probes: what is recorded.
        about: goes into run.json.
        continues_at: the step that training goes on from; steps recorded beyond it are dropped, since they belong to a
            run that did not get as far as its next checkpoint. None: a new recording.
        overwrite: a new recording may take the place of an old one, which stays until the first step is written.

    Raises:
        ValueError: a new recording where there is one already, or a continued one of other probes; a folder that is
            being written, or holds something else.
        OSError: a folder that cannot be written, or has no locks.
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
        self._replaces = overwrite or continues_at is not None
        _check(self.path, self._replaces)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.path / "run.lock", f"path: {self.path}")
        real = os.path.realpath(self.path)
        if before := _writers.get(real):
            before.close()
        self._lock.take()
        try:
            _check(self.path, self._replaces)  # again, since another may have written meanwhile
            self._begin(probes, about, continues_at)
        except BaseException:
            self.close()
            raise
        _writers[real] = self

    def _begin(self, probes: ProbeSet, about: Mapping[str, Any], continues_at: int | None) -> None:
        found = read_about(self.path)
        if found is not None:
            for left in list(self.path.iterdir()):
                if _LEFT.fullmatch(left.name):
                    left.unlink()
        self._first: ProbeSet | None = None  # to be written with the first step
        if continues_at is not None and found is not None:
            if found["probes"] != probes.fingerprint:
                raise ValueError(f"path: {self.path} records other probes; continue with its probes.jsonl")
            self.about: dict[str, Any] = found
            self._drop(continues_at + 1)
            return
        self._first = probes
        self.about = {
            "format": FORMAT,
            "probes": probes.fingerprint,
            "types": list(probes.types),
            "versions": {name: version(name) for name in ("torch", "transformers", "pyarrow")},
            **about,
        }

    @property
    def steps(self) -> list[int]:
        """Those on disk, ascending."""
        return list(step_files(self.path)) if self._first is None else []

    def write(self, step: int, table: pyarrow.Table) -> None:
        """Whole or not at all. The first step takes the place of a recording that was there before.

        Raises:
            ValueError: the folder was given up, and somebody else has taken it.
            OSError: with the name of the file.
        """
        self._lock.take()
        if self._first is None:
            _write(self.path, step, table)
            return
        _check(self.path, self._replaces)  # again, since the folder may have been given up meanwhile
        with filling(self.path) as partial:
            _write(partial, step, table)
            self._first.to_jsonl(partial / "probes.jsonl")
            _json.write(partial / "run.json", self.about, indent=2, default=str)
            self._drop(0)
        self._first = None

    def write_about(self, more: Mapping[str, Any]) -> None:
        """Adds to run.json, once there is a step. Raises as `write`."""
        self._lock.take()
        self.about |= more
        if self._first is None:
            _json.write(self.path / "run.json", self.about, indent=2, default=str)

    def close(self) -> None:
        """Lets others write into the folder."""
        self._lock.release()

    def _drop(self, first: int) -> None:
        for step, file in step_files(self.path).items():
            if step >= first:
                file.unlink()


def _write(folder: Path, step: int, table: pyarrow.Table) -> None:
    import pyarrow.parquet as parquet

    with replacing(folder / f"step-{step:08d}.parquet") as stream:
        parquet.write_table(table, stream, compression="zstd")


def step_files(path: Path) -> dict[int, Path]:
    """The recorded steps of a folder, ascending, and their files."""
    names = ((_STEP.fullmatch(file.name), file) for file in path.glob("step-*.parquet"))
    return dict(sorted((int(name[1]), file) for name, file in names if name))


def check_no_part(name: str, file: Path | None, path: Path) -> None:
    """Raises ValueError, beginning with the name, for a file that a recording there has or may come to have."""
    if file is None:
        return
    real = Path(os.path.realpath(file))
    if real.parent == Path(os.path.realpath(path)) and re.fullmatch(rf"{_OWN}|run\.lock", real.name):
        raise ValueError(f"{name}: expected a file that is no part of the recording {path}, got {file}")


def read_about(path: Path) -> dict[str, Any] | None:
    """run.json, or None if there is none.

    Raises:
        ValueError: it is another program's, or of a later version; the message names the file.
    """
    file = path / "run.json"
    try:
        about = read_object(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file}: expected a recording, got {str(error).removeprefix(f'{file}: ')}") from None
    if not {"format", "probes", "types"} <= about.keys():
        raise ValueError(f"{file}: expected a recording, got something else")
    if about["format"] != FORMAT:
        raise ValueError(f"{file}: expected a recording of format {FORMAT}, got {about['format']}")
    return about


def check_free(path: Path, overwrite: bool, name: str, remedy: str) -> None:
    """Raises as a `Store` of a new recording would, before any work is done for it.

    Args:
        name: what an error calls the folder.
        remedy: what it says to do where there is a recording.
    """
    if (path / "run.lock").exists():
        lock = Lock(path / "run.lock", f"{name}: {path}")
        lock.take()
        lock.release()
    _check(path, overwrite, name, remedy)


def _check(path: Path, overwrite: bool, name: str = "path", remedy: str = "pass overwrite=True") -> None:
    check_folder(name, path)
    try:
        found = read_about(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    steps = list(step_files(path))
    others = "recorded steps" if steps else "probes.jsonl" if (path / "probes.jsonl").exists() else None
    if others and found is None:
        raise ValueError(f"{name}: expected a recording, got {path} with {others} and no run.json")
    if steps and not overwrite:
        raise ValueError(f"{name}: {path} has a recording already (steps {steps[0]} to {steps[-1]}); {remedy}")


def require_pyarrow() -> None:
    with needs("a recording", "dynamics"):
        import pyarrow  # noqa: F401
