"""Records with everything a page may choke on, and a parser that sees a page as a browser would."""

from __future__ import annotations

import base64
import json
import random
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from eft_ext.analysis import Candidate, Change, Record, Token

NASTY = [
    "Hello",
    " <script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    '<img src=x onerror="window.hacked=3">',
    "\n",
    "<|end|>",
    " مرحبا",
    " بالعالم",
    " שלום",
    "\u202eevil",
    "👩‍🚀",
    "",
    "{{ 7 * 7 }}",
    "'\"&amp;\t",
    "<!--",
]


def token(text: str, i: int, count: int = 15) -> Token:
    tv = i / max(1, count - 1)
    listed = [Candidate(i, text, [-0.5, -2.0, -1.5, -0.1]), Candidate(99, "</bdi><script>", [-3.0, None, -1.0, -2.5])]
    return Token(
        id=i,
        text=text,
        logprobs=[-0.5, -2.0, -1.5, -0.1],
        entropy=[1.0, 2.0, 3.0, 0.25],
        rank=[0, 3, 2, 0],
        tv=tv,
        kl=2 * tv,
        special=text == "<|end|>",
        candidates=listed,
        up=[Change(i, text, 1.9)],
        down=[Change(98, " <b>down</b>", None)],
        speculation=("accepted", "rejected", "bonus", None)[i % 4],
        attribution={"large": 0.25} if i == 1 else None,
    )


def nasty() -> Record:
    tokens = [token(text, i, len(NASTY)) for i, text in enumerate(NASTY)]
    return Record(tokens, prompt="<b>prompt</b> مرحبا", options={"beta": 1.5, "note": "<i>x</i>"})


def plain(text: str = "a b c", prompt: str = "") -> Record:
    words = text.split()
    return Record([token(word + " ", i, len(words)) for i, word in enumerate(words)], prompt)


def row(*texts: str) -> Record:
    """These tokens alone."""
    return Record([token(text, i, len(texts)) for i, text in enumerate(texts)])


def long(count: int = 20_000) -> Record:
    """A text as `eft report` has it: four distributions, 8 to 10 candidates, 5 gains and 5 losses at each token.

    Its last token is " finis", which stands nowhere else.
    """
    draw = random.Random(count)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 7))) for _ in range(5000)]

    def word() -> tuple[int, str]:
        i = int(5000 * draw.random() ** 3)
        return i, "\n" if i == 7 else " " + words[i]

    def logprobs() -> list[float | None]:
        return [-(draw.random() ** 3) * 20 for _ in range(4)]

    def one() -> Token:
        own = word()
        listed = [Candidate(*each, logprobs()) for each in [own, *(word() for _ in range(draw.randint(7, 9)))]]
        up, down = ([Change(*word(), sign * 9 * draw.random()) for _ in range(5)] for sign in (1, -1))
        entropy: list[float | None] = [4 * draw.random() for _ in range(4)]
        tv, rank = draw.random() ** 4, [draw.randint(0, 30) for _ in range(4)]
        return Token(*own, listed[0].logprobs, entropy, rank, tv, 5 * tv, False, listed, up, down)

    tokens = [one() for _ in range(count)]
    tokens[-1] = replace(tokens[-1], text=" finis")
    return Record(tokens, "Tell a long story.", options={"max_new_tokens": count, "do_sample": True})


def read_back(page: Page) -> list[list[Token]]:
    """The tokens of each record as the page's data has them; whether they are special is not there."""
    found, rows = [], []
    for attrs, text in page.all("script"):
        if attrs.get("type") == "text/plain":
            rows += json.loads(zlib.decompress(base64.b64decode(text)))
        elif attrs.get("type") == "application/json" and "id" not in attrs:
            record = json.loads(text)
            found.append([_token(row, record, t) for t, row in enumerate(rows)])
            rows = []
    return found


def _token(row: list[Any], record: dict[str, Any], t: int) -> Token:
    place, logprobs, entropy, rank, candidates, up, down, speculation, attribution = row
    pool, tv, kl = record["pool"], record["measures"]["tv"][t], record["measures"]["kl"][t]
    lists = (
        [Candidate(*pool[c], figures) for c, *figures in candidates],
        [Change(*pool[c], ratio) for c, ratio in up],
        [Change(*pool[c], ratio) for c, ratio in down],
    )
    return Token(*pool[place], logprobs, entropy, rank, tv, kl, False, *lists, speculation, attribution)


class Page(HTMLParser):
    """Elements in order as (tag, attributes, text inside them)."""

    VOID = ("meta", "link", "img", "br", "rect", "input")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        entry: tuple[str, dict[str, str | None], list[str]] = (tag, dict(attrs), [])
        self.elements.append(entry)
        if tag not in self.VOID:
            self._open.append(entry)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for entry in self._open:
            entry[2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attrs, "".join(text))
            for name, attrs, text in self.elements
            if name == tag
            and all(value in (attrs.get(key.rstrip("_")) or "").split() for key, value in attributes.items())
        ]

    @property
    def unclosed(self) -> list[str]:
        return [entry[0] for entry in self._open]
