"""The responses that are watched while a model trains."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from eft_ext._chat import Chat
from eft_ext._files import write_text
from eft_ext._jsonl import read_lines
from eft_ext.dynamics.chats import as_prompt, as_response
from eft_ext.dynamics.responses import Responses


@dataclass(frozen=True)
class Probe:
    """A prompt and the responses to it that are watched together: chosen, rejected, a paraphrase, nonsense, ...

    Attributes:
        prompt: a text, or a chat, [{"role": ..., "content": ...}, ...], that the assistant is to answer.
        responses: the responses by type.
        where: file and line that it was read from, for messages.
    """

    prompt: str | Chat
    responses: Mapping[str, str]
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class ProbeSet(Sequence[Probe]):
    """Probes in a fixed order; `str` of them counts the responses of each type.

    Attributes:
        probes: the probes.
        left_out: the number of lines or records that had none of the requested types.
        counts: the number of probes with each type, in the order in which the types first appear.

    Raises:
        ValueError: no probe, or one without a response or with an empty one.
    """

    probes: tuple[Probe, ...]
    left_out: int = field(default=0, compare=False)
    counts: Mapping[str, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "probes", tuple(self.probes))
        if not self.probes:
            raise ValueError("probes: expected at least one, got none")
        for number, probe in enumerate(self.probes):
            if not probe.responses:
                raise ValueError(f"probe {number}: expected at least one response, got none")
            _filled(as_prompt(probe.prompt, f"probe {number}", "prompt"), f"probe {number}", "prompt")
            for name, text in probe.responses.items():
                if name == "prompt":  # which a file has once
                    raise ValueError(f"probe {number}: expected another type of response than 'prompt'")
                if not isinstance(text, str) or not text:
                    got = "an empty text" if text == "" else type(text).__name__
                    raise ValueError(f"probe {number}, key '{name}': expected a text, got {got}")
        object.__setattr__(self, "counts", Counter(name for probe in self.probes for name in probe.responses))

    @property
    def types(self) -> tuple[str, ...]:
        """All types of responses, in the order in which they first appear."""
        return tuple(self.counts)

    def __str__(self) -> str:
        prompts = f"{len(self)} prompt{'s' * (len(self) > 1)}"
        total, types = sum(self.counts.values()), len(self.counts)
        responses = f"{total} response{'s' * (total > 1)} of {types} type{'s' * (types > 1)}"
        missing = {name: len(self) - count for name, count in self.counts.items() if count < len(self)}
        without = [", ".join(f"without {name} {number}" for name, number in missing.items())] if missing else []
        left = [f"{self.left_out} left out, with none of these types"] if self.left_out else []
        return "; ".join([f"{prompts}, {responses}", *without, *left])

    @classmethod
    def from_jsonl(cls, path: str | Path, types: Sequence[str] | None = None) -> ProbeSet:
        """Reads one JSON object per line: "prompt", and a text under each type of response.

        The prompt may be a list of chat messages, under "prompt" or "messages", and a response a list of one message
        of the assistant, as in TRL. `encode` renders the prompt with the tokenizer's chat template; the response is
        the content of its message.

        Types may have any name. Files of Ren & Sutherland's code can be read unchanged: prompt, chosen,
        chosen_initial, chosen_selfr, chosen_gptsemantic, chosen_gptformat, rejected, reject_gptsemantic,
        reject_gptformat, irr_train, irr_test, irr_hum, random_permute, random_nonhum. A prompt does not have the
        responses that are missing, null or empty in its line.

        Args:
            path: the file, perhaps under gzip.
            types: keep these types only, and leave out lines with none of them.

        Raises:
            ValueError: a line that is no JSON object, without a prompt or a response, or with one that is neither text
                nor messages; the message names line and key. Also if no line has one of the types.
            OSError: no such file.
        """
        return cls._of(((line.object, line.where) for line in read_lines(path)), types, str(path))

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]], types: Sequence[str] | None = None) -> ProbeSet:
        """Reads objects in memory as `from_jsonl` reads lines, e.g. a `datasets.Dataset`."""
        return cls._of(((row, f"record {i}") for i, row in enumerate(records)), types, "records")

    @classmethod
    def _of(cls, rows: Iterable[tuple[Mapping[str, Any], str]], types: Sequence[str] | None, source: str) -> ProbeSet:
        types = [types] if isinstance(types, str) else types
        read = [_read(row, where, types) for row, where in rows]
        probes = tuple(probe for probe in read if probe.responses)
        if read and not probes:
            raise ValueError(f"types: expected some that {source} has, got {', '.join(types or ()) or 'none'}")
        return cls(probes, len(read) - len(probes))

    def to_jsonl(self, path: str | Path) -> None:
        """Writes a file that `from_jsonl` reads."""
        lines = (_dumps({"prompt": p.prompt, **p.responses}) for p in self.probes)
        write_text(path, "\n".join(lines) + "\n")

    def sample(self, count: int, seed: int = 0) -> ProbeSet:
        """Draws `count` of the probes without replacement and keeps their order. The same seed draws the same.

        Raises:
            ValueError: there are fewer probes.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"count: expected 1 to {len(self)}, the number of probes, got {count}")
        drawn = random.Random(f"sample {seed}").sample(range(len(self)), count)
        return ProbeSet(tuple(self.probes[i] for i in sorted(drawn)), self.left_out)

    def with_type(self, name: str, responses: Sequence[str]) -> ProbeSet:
        """Adds a type of response, one text for each probe, such as `permuted_words` or `cross_prompt` makes them.

        Raises:
            ValueError: the name is taken, or there are more or fewer texts than probes.
        """
        if name in self.types:
            raise ValueError(f"name: expected a new type, got {name!r}, which these probes have")
        if len(responses) != len(self):
            raise ValueError(f"responses: expected {len(self)}, one for each probe, got {len(responses)}")
        pairs = zip(self.probes, responses, strict=True)
        probes = tuple(Probe(p.prompt, {**p.responses, name: text}, p.where) for p, text in pairs)
        return ProbeSet(probes, self.left_out)

    def texts(self, name: str) -> list[str]:
        """Returns the responses of one type, one for each probe.

        Raises:
            ValueError: some probe has none of it.
        """
        missing = next((i for i, p in enumerate(self.probes) if name not in p.responses), None)
        if missing is not None:
            remedy = f"; take ProbeSet([p for p in probes if {name!r} in p.responses])" if name in self.counts else ""
            raise ValueError(f"type: expected every probe to have {name!r}, probe {missing} has none{remedy}")
        return [p.responses[name] for p in self.probes]

    def rows(self) -> Iterator[tuple[int, str, str | Chat, str]]:
        """Yields (number of the probe, type, prompt, response), probe after probe."""
        for number, probe in enumerate(self.probes):
            for name, text in probe.responses.items():
                yield number, name, probe.prompt, text

    def encode(self, tokenizer: Any, end: bool = True) -> Responses:
        """Returns all rows as token ids; see `Responses.from_text`."""
        rows = list(self.rows())
        where = (self.probes[i].where or f"probe {i}, {name}" for i, name, _, _ in rows)
        return Responses.from_text(tokenizer, [(prompt, text) for _, _, prompt, text in rows], end, where)

    @property
    def fingerprint(self) -> str:
        """A hash of prompts, types and texts; only a recording with the same one can be continued."""
        return sha256(json.dumps(list(self.rows()), default=dict).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.probes)

    def __getitem__(self, index: Any) -> Any:
        return self.probes[index]


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=dict)  # messages are mappings of any kind


def _read(row: Mapping[str, Any], where: str, types: Sequence[str] | None) -> Probe:
    """With no response where the line has none of the types."""
    asked = "messages" if "messages" in row and "prompt" not in row else "prompt"
    if asked not in row:
        raise ValueError(f"{where}: expected the key 'prompt', got {', '.join(row) or 'none'}")
    prompt = _filled(as_prompt(row[asked], where, asked), where, asked)
    wanted = {name: value for name, value in row.items() if name != asked and (types is None or name in types)}
    given = {name: as_response(value, where, name) for name, value in wanted.items() if value is not None}
    responses = {name: text for name, text in given.items() if text}
    if not responses and types is None:
        raise ValueError(f"{where}: expected at least one response beside '{asked}', got none")
    return Probe(prompt, responses, where)


def _filled(prompt: str | Chat, where: str, key: str) -> str | Chat:
    if not prompt:
        raise ValueError(f"{where}, key '{key}': expected a text, got an empty text")
    return prompt
