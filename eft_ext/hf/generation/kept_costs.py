"""Measurements of `speculate="auto"`, kept in a small file for later processes.

These are hints: they decide how many tokens are drafted first, and no outcome depends on them. So a file that is
broken, missing or read-only is passed over in silence, and where two processes write at once one of them is forgotten.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from eft_ext._files import write_text
from eft_ext.decoding.module_utils import modules_of, parameters_of
from eft_ext.decoding.speculative.costs import CHOICES
from eft_ext.hf.members import Member

FILE = "EFT_SPECULATION_FILE"  # of the environment: another file, or none where it is empty
_MOST = 64  # entries, of which the oldest make room
_LARGEST = 1 << 20  # bytes that are read
_LEAST = 1e-9  # of every positive number
_LABELS = ("_commit_hash", "transformers_version", "architectures")


def place() -> Path | None:
    """The file; None where none is wanted or there is no home to keep it in."""
    given = os.environ.get(FILE)
    if given is not None:
        return Path(given) if given else None
    with suppress(RuntimeError):
        folder = os.environ.get("XDG_CACHE_HOME")
        return (Path(folder) if folder else Path.home() / ".cache") / "eft_ext" / "speculation.json"
    return None


def fingerprint(members: Sequence[Member], *facts: Any) -> str:
    """32 hexadecimal digits: of the models' configurations, modules and weights' types, the machine and other facts."""
    models = []
    for member in members:
        weights = list(parameters_of(member.model))
        types = sorted({str(weight.dtype) for weight in weights} | {type(m).__name__ for m in modules_of(member.model)})
        config = {name: value for name, value in member.config.to_dict().items() if name not in _LABELS}
        path = getattr(member.model.config, "_name_or_path", "")
        models.append([path, config, types, str(weights[0].device), member.adapter, member.without_adapter])
    about = [models, facts, torch.get_num_threads(), torch.__version__, _processor(), _gpu()]
    return sha256(repr(about).encode()).hexdigest()[:32]  # a configuration's keys need not be JSON's


def read(key: str) -> dict[str, Any] | None:
    """The entry of a key, None where there is none or it is not one that we write."""
    found = _entries(place()).get(key)
    return found if _valid(found) else None


def write(key: str, entry: Mapping[str, Any]) -> None:
    """Keeps an entry, as the newest."""
    path = place()
    if path is None:
        return
    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = {name: kept for name, kept in _entries(path).items() if name != key and _valid(kept)}
        entries = dict([*entries.items(), (key, dict(entry))][-_MOST:])
        write_text(path, json.dumps(entries, indent=1) + "\n")


def changed(entry: Mapping[str, Any], kept: Mapping[str, Any] | None) -> bool:
    """True where an entry says something else than the one that is kept: by a tenth, or of another k."""
    if kept is None:
        return True
    if set(entry["seconds"]) - set(kept["seconds"]) or abs(entry["acceptance"] - kept["acceptance"]) > 0.05:
        return True
    pairs = [(seconds, kept["seconds"][k]) for k, seconds in entry["seconds"].items()]
    return any(abs(new - old) > 0.1 * old for new, old in pairs)


def _entries(path: Path | None) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        if path is not None and path.is_file() and path.stat().st_size <= _LARGEST:
            found = json.loads(path.read_bytes())
            return found if isinstance(found, dict) else {}
    return {}


def _valid(entry: Any) -> bool:
    with suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError):
        seconds = {int(k): value for k, value in entry["seconds"].items()}
        share, decided, patience = (entry[name] for name in ("acceptance", "decided", "patience"))
        numbers = (*seconds.values(), decided, patience)
        plain = all(type(value) in (int, float) for value in (share, *numbers))
        sensible = all(_LEAST < value < 1 / _LEAST for value in numbers)  # their quotients are finite, and not 0
        return plain and sensible and {0} <= set(seconds) <= set(CHOICES) and 0 <= share <= 1
    return False


@cache
def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_initialized() else ""
