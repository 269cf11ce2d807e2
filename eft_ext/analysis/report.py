"""The token report: one self-contained HTML page of records, after the token analysis of Mitchell et al."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eft_ext._extras import needs
from eft_ext._version import __version__
from eft_ext.analysis.pieces import Pool, packed, pieces, rounded
from eft_ext.analysis.record import Record, Token
from eft_ext.analysis.visible import PARTIAL, marks, on_one_line, visible

with needs("eft_ext.analysis.report", "cli"):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

CHART_WIDTH, CHART_HEIGHT = 1000, 120


@dataclass(frozen=True)
class Measure:
    """Something that a token is shaded by: a figure, and the value whose shade is strongest."""

    key: str
    name: str
    explained: str
    of: Callable[[Record, Token], float | None]
    most: float | None = None  # None: the largest of the text


def _at(values: Sequence[float | None], record: Record, name: str) -> float | None:
    return values[record.names.index(name)] if name in record.names and len(values) == len(record.names) else None


def _reward(record: Record, token: Token) -> float | None:
    tuned, base = (_at(token.logprobs, record, name) for name in ("tuned", "base"))
    return None if tuned is None or base is None else tuned - base


def _surprise(record: Record, token: Token) -> float | None:
    own = _at(token.logprobs, record, "mixture")
    return None if own is None else -own


def _entropy(record: Record, token: Token) -> float | None:
    return _at(token.entropy, record, "mixture")


MEASURES = (
    Measure("tv", "total variation", "mixture against compared, 0 to 1", lambda r, t: t.tv, 1.0),
    Measure("kl", "KL", "KL(mixture ‖ compared), nats", lambda r, t: t.kl),
    Measure("entropy", "entropy", "of the mixture, nats", _entropy),
    Measure("surprise", "surprise", "−log p of the token under the mixture, nats", _surprise),
    Measure("reward", "reward", "log p tuned − log p base of the token, nats; its size is shaded", _reward),
)


@dataclass(frozen=True)
class RecordView:
    """A record as the template shows it."""

    record: Record
    measures: dict[str, list[float | None]]  # by key, one for each token
    shades: dict[str, list[float]]  # the same, 0 to 1
    summary: str
    pieces: list[range]  # positions
    data: list[str]  # of each piece, as `packed` makes it
    pool: list[tuple[int, str]]  # each id and text that data refers to


def report_html(records: Sequence[Record], title: str = "Token report") -> str:
    """Returns a self-contained HTML page of the records. It loads nothing, and no text of a record runs as code.

    Text is shaded by the total variation between the mixture and the compared model, else by the first other figure
    that there is; the reader can pick another. Pointing at a token, tapping it, or moving to it with the arrow keys
    shows its probabilities under all models.

    Raises:
        ValueError: no records, or one without tokens.
    """
    if not records:
        raise ValueError("records: expected at least one, got none")
    for i, record in enumerate(records):
        if not record.tokens:
            raise ValueError(f"records[{i}].tokens: expected at least one, got none")
    environment = Environment(
        loader=PackageLoader("eft_ext.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"nats": nats, "visible": visible, "bars": bars}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}

    def raw(*names: str) -> Markup:
        assert environment.loader is not None
        return Markup("").join(Markup(environment.loader.get_source(environment, name)[0]) for name in names)

    views = [view(record) for record in records]
    compared = {record.compared for record in records}
    there = [m for m in MEASURES if any(x is not None for v in views for x in v.measures[m.key])]
    page = environment.get_template("report.html.j2")
    return page.render(
        title=title,
        views=views,
        marks=marks(text for v in views for _, text in v.pool),
        measures=there or MEASURES[:1],
        compared=compared.pop() if len(compared) == 1 else "the model that is compared",
        style=raw("report.css"),
        script=raw("panel.js", "table.js", "report.js"),  # our own files, as they stand
        version=__version__,
        partial=PARTIAL,
        width=CHART_WIDTH,
        height=CHART_HEIGHT,
    )


def view(record: Record) -> RecordView:
    measures = {m.key: rounded(m.of(record, token) for token in record.tokens) for m in MEASURES}
    shades = {}
    for m in MEASURES:
        sizes = [abs(x) if x is not None else 0.0 for x in measures[m.key]]
        most = m.most or max(sizes) or 1.0
        shades[m.key] = [round(min(1.0, size / most), 2) for size in sizes]
    tv = [x for x in measures["tv"] if x is not None]
    count = len(record.tokens)
    summary = f"{count} token{'s' * (count > 1)}"
    if tv:
        place = max(range(count), key=lambda i: measures["tv"][i] or 0.0)
        far = sum(x > 0.5 for x in tv)
        summary += f"; mean total variation {sum(tv) / len(tv):.3f}, above one half at {far}"
        summary += f"; largest {max(tv):.3f} at token {place + 1}, {on_one_line(record.tokens[place].text)}"
    pool: Pool = {}
    parts = pieces(record.tokens)
    data = [packed((record.tokens[t] for t in piece), pool) for piece in parts]
    return RecordView(record, measures, shades, summary, parts, data, list(pool))


def bars(shades: Sequence[float]) -> str:
    """The chart as an SVG path: a bar for each token, or for the strongest of several where all would not fit."""
    each = math.ceil(len(shades) / CHART_WIDTH)
    step = CHART_WIDTH * each / len(shades)
    tops = [CHART_HEIGHT * (1 - max(shades[i : i + each])) for i in range(0, len(shades), each)]
    places = [(round(i * step, 2), round(top, 1)) for i, top in enumerate(tops) if top < CHART_HEIGHT]
    return "".join(f"M{x:g} {CHART_HEIGHT}V{top:g}h{step * 0.86:.4g}V{CHART_HEIGHT}" for x, top in places)


def nats(x: float | None) -> str:
    return "–" if x is None else f"{x:.3f}"
