"""Files that are written whole or not at all, and folders and files that one process at a time writes."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from filelock import BaseFileLock

PICTURES = (".png", ".svg", ".pdf")
# Of network file systems; filelock makes the first a NotImplementedError without a number, by its version.
_NO_LOCKS = (None, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_OURS = re.compile(rb"(\d+\n)?")  # a lock's file; older versions left a process id there


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A stream that takes the place of a file once everything is written to it, and is on disk.

    Until then it has another name in the same folder. Where something fails that is removed, and what was there stays.
    A file that is replaced keeps its permissions, a link its target. What is no regular file, and our own output, is
    written directly.

    Raises:
        OSError: with the name of the file.
    """
    with named(path):
        if goes_elsewhere(path):
            with open(path, "wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    partial = target.with_name(f"{target.name[:60]}.{secrets.token_hex(4)}.tmp")
    try:
        with named(path, partial):
            with open(partial, "xb") as stream:
                if target.exists():
                    os.chmod(partial, target.stat().st_mode & 0o7777)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _keep_names(target.parent)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder inside another, whose files go into that one, by name, once all are written.

    Where something fails nothing else has changed.

    Raises:
        OSError: with the name that a file was to have.
    """
    partial, new = folder / f"{secrets.token_hex(4)}.tmp", not folder.exists()
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in sorted(found for found in partial.rglob("*") if found.is_file()):
            target = folder / file.relative_to(partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        _keep_names(folder)
    except OSError as error:
        if error.filename is not None:
            error.filename = str(error.filename).replace(str(partial), str(folder))
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def write_text(path: str | Path, text: str) -> None:
    """Writes a text in UTF-8, whole or not at all; see `replacing`."""
    with replacing(path) as stream:
        stream.write(text.encode())


def save_figure(figure: Any, path: str | Path, **options: Any) -> None:
    """A matplotlib figure in the format of the name's ending, PNG if it has none; see `replacing`.

    Args:
        options: of `Figure.savefig`.

    Raises:
        ValueError: a format that matplotlib does not write.
    """
    with replacing(path) as stream:
        figure.savefig(stream, format=Path(path).suffix[1:] or "png", **options)


@contextmanager
def named(path: str | Path, alias: Path | None = None) -> Iterator[None]:
    """Gives an OSError of writing the file's name, which a full disk does not tell.

    Args:
        alias: the name that the file has meanwhile.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, str(alias)):
            raise
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def check_folder(name: str, path: Path) -> None:
    """Raises ValueError, beginning with the name, where a folder could not be made or written into."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{name}: expected a folder, got the file {there}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: expected a folder to write into, got {there}, which is read-only")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:  # root may do everything, yet not in /proc
        raise ValueError(f"{name}: no file can be made in {there} ({error.strerror})") from error


class Lock:
    """Keeps others from writing the same. The system frees it however its holder ends; its file stays, empty.

    A copy, and the same object in a forked process, does not hold it.
    """

    def __init__(self, file: Path, what: str) -> None:
        """Takes nothing yet.

        Args:
            file: made where it is missing.
            what: what is locked, as an error begins.
        """
        self._file, self._what = file, what
        self._lock: BaseFileLock | None = None

    def take(self) -> None:
        """Does nothing where it is held already.

        Raises:
            ValueError: somebody else holds it; the file is another program's.
            OSError: the file system has no locks, or the file cannot be made.
        """
        from filelock import FileLock, Timeout  # torch requires it

        if self._lock is not None and self._lock.is_locked:
            return
        self._make()
        lock = FileLock(self._file, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self._what} is already being written") from None
        except (NotImplementedError, OSError) as error:
            if getattr(error, "errno", None) not in _NO_LOCKS:
                raise
            raise OSError(f"{self._file}: the file system has no locks; write to another one") from error
        self._lock = lock

    def _make(self) -> None:
        """Filelock empties the file, by its version, and takes one that cannot be made for a lock that is held."""
        with named(self._file):
            if not os.path.lexists(self._file):
                self._file.touch()
                return
            if self._file.is_file():
                with open(self._file, "rb") as stream:
                    if _OURS.fullmatch(stream.read(99)):
                        return
            raise ValueError(f"{self._what}: expected an empty file for the lock, got {self._file}; move it away")

    def release(self) -> None:
        """Does nothing where it is not held."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}


def goes_elsewhere(path: str | Path) -> bool:
    """True for pipes and devices, and for the file that our own output goes to."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    streams = []
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            streams.append(os.fstat(descriptor))
    return not os.path.isfile(path) or any(os.path.samestat(found, stream) for stream in streams)


def _keep_names(folder: Path) -> None:
    """A name is on disk when its folder is. Not all file systems can say so of a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
