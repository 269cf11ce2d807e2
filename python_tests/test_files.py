"""Files written whole or not at all, locks, and JSON without what JSON lacks."""

import copy
import json
import math
import os
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from eft_ext import _json
from eft_ext._files import Lock, check_folder, filling, replacing, write_text
from python_tests.helpers.full_disk import full_behind


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_what_is_written_takes_the_old_ones_place(tmp_path):
    file, link = tmp_path / "page.html", tmp_path / "link.html"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("page.html")
    with replacing(link) as stream:
        stream.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == link.read_text() == "new"
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["link.html", "page.html"]


def test_a_new_file_has_the_permissions_of_any(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "é")
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == "é".encode()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    write_text(tmp_path / ("n" * 250), "")  # as long as names may be


def test_a_full_disk_leaves_the_old_one(tmp_path):
    file = tmp_path / "page.html"
    for old in (None, "old"):
        if old:
            file.write_text(old)
        with full_behind(1000), pytest.raises(OSError, match="File too large") as raised:
            write_text(file, "x" * 5000)
        assert raised.value.filename == str(file)
        assert names(tmp_path) == ([file.name] if old else [])
    assert file.read_text() == "old"
    with pytest.raises(TypeError), replacing(file) as stream:
        print(stream.write(b"half"), stream.write("half"))
    assert (file.read_text(), names(tmp_path)) == ("old", [file.name])
    with pytest.raises(OSError, match="'/dev/full'"):
        write_text("/dev/full", "x")
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/nowhere/x'"):
        write_text(tmp_path / "nowhere" / "x", "x")


def test_pipes_are_written_directly(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_text(pipe, "new")
    reader.join(10)
    assert read == ["new"]
    assert names(tmp_path) == ["pipe"]
    write_text("/dev/null", "x")


def test_our_own_output_is_written_directly(tmp_path):
    """Text that is printed afterwards would go to a file without a name."""
    file, kept = tmp_path / "out", os.dup(1)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(descriptor, 1)
        write_text("/dev/stdout", "page\n")
        os.write(1, b"said\n")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(descriptor)
    assert file.read_text() == "page\nsaid\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_read_only_files_stay(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o444)
    with pytest.raises(PermissionError, match="file"):
        write_text(tmp_path / "file", "new")
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match=f"--out: expected a folder to write into, got {tmp_path}, which is read-only"):
        check_folder("--out", tmp_path / "run")
    tmp_path.chmod(0o755)


def test_a_folder_that_is_a_file(tmp_path):
    check_folder("--out", tmp_path / "a" / "b")
    (tmp_path / "a").write_text("")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(ValueError, match=f"--out: expected a folder, got the file {tmp_path}/a$"):
            check_folder("--out", path)


def test_one_holds_a_lock(tmp_path):
    one, other = (Lock(tmp_path / "lock", "path: run") for _ in range(2))
    one.take()
    one.take()
    with pytest.raises(ValueError, match="^path: run is already being written$"):
        other.take()
    for copied in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        with pytest.raises(ValueError, match="is already being written"):
            copied.take()
    if (child := os.fork()) == 0:
        one.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ValueError, match="is already being written"):
        other.take()
    one.release()
    other.take()
    del other
    one.take()
    assert (tmp_path / "lock").read_bytes() == b""


@pytest.mark.parametrize("content", [b"my notes", b"12", b"12\n\n", b"x" * 10_000, None])
def test_a_lock_leaves_other_files_alone(tmp_path, content):
    file = tmp_path / "lock"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^path: run: expected an empty file for the lock, got {file}; move it away$"):
        Lock(file, "path: run").take()
    assert content is None or file.read_bytes() == content
    assert names(tmp_path) == ["lock"]


def test_a_lock_of_an_older_version(tmp_path):
    (tmp_path / "lock").write_text("4711\n")
    one = Lock(tmp_path / "lock", "path: run")
    one.take()
    with pytest.raises(ValueError, match="is already being written"):
        Lock(tmp_path / "lock", "path: run").take()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder where even root makes no file")
def test_a_folder_where_no_file_can_be_made():
    with pytest.raises(FileNotFoundError, match=r"'/proc/x\.lock'"):
        Lock(Path("/proc/x.lock"), "path: run").take()
    with pytest.raises(ValueError, match="^--out: "):
        check_folder("--out", Path("/proc/x"))


def test_a_folder_is_filled_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "model"

    def fill(size):
        with filling(target) as partial:
            (partial / "sub").mkdir()
            (partial / "config").write_text("new")
            (partial / "sub" / "weights").write_bytes(b"x" * size)

    with full_behind(1000):
        with pytest.raises(OSError, match="File too large"):
            fill(5000)
        assert not target.exists()
        (target / "sub").mkdir(parents=True)
        for name in ("config", "mine", "sub/weights"):
            (target / name).write_text("old")
        with pytest.raises(FileNotFoundError, match=f"'{target}/nowhere/x'"), filling(target) as partial:
            (partial / "nowhere" / "x").write_text("new")
        assert {(target / name).read_text() for name in ("config", "mine", "sub/weights")} == {"old"}
        fill(500)
    assert names(target) == ["config", "mine", "sub"]
    assert names(target / "sub") == ["weights"]
    assert [(target / name).read_text() for name in ("config", "mine", "sub/weights")] == ["new", "old", "x" * 500]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(OSError, match="lock: the file system has no locks; write to another one"):
        Lock(tmp_path / "lock", "path: run").take()


def test_what_json_lacks_is_null():
    @dataclass
    class Some:
        figures: tuple[float, ...]

    value = {"a": [1, math.nan, {"b": -math.inf}], "c": Some((math.inf, 0.5)), "d": "NaN", "e": True, "f": None}
    told = json.loads(_json.dumps(value), parse_constant=pytest.fail)
    assert told == {"a": [1, None, {"b": None}], "c": {"figures": [None, 0.5]}, "d": "NaN", "e": True, "f": None}
