"""The responses that are watched while a model trains."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from eft_ext._files import write_text
from eft_ext._jsonl import read_lines
from eft_ext.dynamics.responses import Responses


@dataclass(frozen=True)
class Probe:
    """A prompt, and named responses to it that are watched together: chosen, rejected, a paraphrase, nonsense, ..."""

    prompt: str
    responses: Mapping[str, str]
    where: str = field(default="", compare=False, repr=False)  # file and line that it was read from, for messages


@dataclass(frozen=True)
class ProbeSet(Sequence[Probe]):
    """Probes in a fixed order; `types` are all names of responses, in the order in which they first come up.

    Raises:
        ValueError: there is no probe, or one without a response.
    """

    probes: tuple[Probe, ...]
    types: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "probes", tuple(self.probes))
        if not self.probes:
            raise ValueError("probes: expected at least one, got none")
        for number, probe in enumerate(self.probes):
            if not probe.responses:
                raise ValueError(f"probe {number}: expected at least one response, got none")
        object.__setattr__(self, "types", tuple(dict.fromkeys(name for p in self.probes for name in p.responses)))

    @classmethod
    def from_jsonl(cls, path: str | Path, types: Sequence[str] | None = None) -> ProbeSet:
        """One JSON object per line: "prompt", and a text under each type of response.

        Any names will do. The files of Ren & Sutherland's code are read as they are: prompt, chosen,
        chosen_initial, chosen_selfr, chosen_gptsemantic, chosen_gptformat, rejected, reject_gptsemantic,
        reject_gptformat, irr_train, irr_test, irr_hum, random_permute, random_nonhum. A response may be missing from
        a line, or null there.

        Args:
            types: keep these types only.

        Raises:
            ValueError: a line that is no JSON object, a prompt or response that is missing, empty or no text; the
                message names line and key.
            OSError: no such file.
        """
        return cls(tuple(_read(line.object, line.where, types) for line in read_lines(path)))

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]], types: Sequence[str] | None = None) -> ProbeSet:
        """As `from_jsonl`, from objects in memory, e.g. a `datasets.Dataset`."""
        return cls(tuple(_read(row, f"record {i}", types) for i, row in enumerate(records)))

    def to_jsonl(self, path: str | Path) -> None:
        lines = (json.dumps({"prompt": p.prompt, **p.responses}, ensure_ascii=False) for p in self.probes)
        write_text(path, "\n".join(lines) + "\n")

    def with_type(self, name: str, responses: Sequence[str]) -> ProbeSet:
        """A further type of response, one text for each probe; see `eft_ext.dynamics.builders`.

        Raises:
            ValueError: the name is taken, or there are more or fewer texts than probes.
        """
        if name in self.types:
            raise ValueError(f"name: expected a new type, got {name!r}, which these probes have")
        if len(responses) != len(self):
            raise ValueError(f"responses: expected {len(self)}, one for each probe, got {len(responses)}")
        pairs = zip(self.probes, responses, strict=True)
        return ProbeSet(tuple(Probe(p.prompt, {**p.responses, name: text}, p.where) for p, text in pairs))

    def texts(self, name: str) -> list[str]:
        """The responses of one type, one for each probe.

        Raises:
            ValueError: some probe has none of it.
        """
        missing = next((i for i, p in enumerate(self.probes) if name not in p.responses), None)
        if missing is not None:
            raise ValueError(f"type: expected every probe to have {name!r}, probe {missing} has none")
        return [p.responses[name] for p in self.probes]

    def rows(self) -> Iterator[tuple[int, str, str, str]]:
        """(number of the probe, type, prompt, response), probe after probe: what is watched, in order."""
        for number, probe in enumerate(self.probes):
            for name, text in probe.responses.items():
                yield number, name, probe.prompt, text

    def encode(self, tokenizer: Any, end: bool = True) -> Responses:
        """All rows as token ids; see `Responses.from_text`."""
        rows = list(self.rows())
        where = (self.probes[i].where or f"probe {i}, {name}" for i, name, _, _ in rows)
        return Responses.from_text(tokenizer, [(prompt, text) for _, _, prompt, text in rows], end, where)

    @property
    def fingerprint(self) -> str:
        """Of prompts, types and texts: a recording is continued only with the probes that it began with."""
        return sha256(json.dumps(list(self.rows())).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.probes)

    def __getitem__(self, index: Any) -> Any:
        return self.probes[index]


def _read(row: Mapping[str, Any], where: str, types: Sequence[str] | None) -> Probe:
    if "prompt" not in row:
        raise ValueError(f"{where}: expected the key 'prompt', got {', '.join(row) or 'none'}")
    texts = {name: text for name, text in row.items() if text is not None and (types is None or name in types)}
    for key, value in {**texts, "prompt": row["prompt"]}.items():
        if not isinstance(value, str) or not value:
            got = "an empty text" if value == "" else type(value).__name__
            raise ValueError(f"{where}, key '{key}': expected a text, got {got}")
    texts.pop("prompt", None)
    if not texts:
        wanted = f"one of {', '.join(types)}" if types is not None else "at least one response beside 'prompt'"
        raise ValueError(f"{where}: expected {wanted}, got none")
    return Probe(row["prompt"], texts, where)
