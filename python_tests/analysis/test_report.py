"""The token report as a document: well formed, self-contained, everything a model wrote is text."""

import re
from dataclasses import replace

import pytest

from eft_ext.analysis import Record, Token
from eft_ext.analysis.pieces import pieces
from eft_ext.analysis.report import bars, report_html, view
from python_tests.analysis.pages import NASTY, Page, long, nasty, plain, read_back, token


@pytest.fixture(scope="module")
def page():
    return Page(report_html([nasty(), plain("one two three", "why?")], title="A <b>title</b>"))


def test_well_formed_and_labelled(page):
    assert page.unclosed == []
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        for reference in ("aria-labelledby", "for"):
            assert attrs.get(reference) is None or attrs[reference] in ids
    assert page.all("html")[0][0]["lang"] == "en"
    assert page.all("title")[0][1] == "A <b>title</b>"
    assert [text for _, text in page.all("h2")] == ["1. Prompt <b>prompt</b> مرحبا", "2. Prompt why?"]
    for attrs, _ in page.all("svg"):
        assert attrs["role"] == "img"
        assert "otal variation" in attrs["aria-label"]
    assert page.all("aside")[0][0]["aria-live"] == "polite"


def test_nothing_comes_from_elsewhere(page):
    for tag, attrs, _ in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form")
        assert not {"src", "href", "srcset", "action"} & set(attrs), attrs
        assert not [name for name in attrs if name.startswith("on")]
    style = page.all("style")[0][1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attrs["content"] for attrs, _ in page.all("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy


def test_what_a_model_wrote_is_text(page):
    kinds = [attrs.get("type") for attrs, _ in page.all("script")]
    assert kinds.count(None) == 1, "ours alone runs"
    assert set(kinds) == {None, "application/json", "text/plain"}
    assert not page.all("b")
    assert not page.all("i", class_="x")
    tokens = page.all("span", class_="token")[: len(NASTY)]
    for (attrs, shown), text in zip(tokens, NASTY, strict=True):
        if "\n" in text:
            assert shown == "↵\n"
        elif not text:
            assert shown == "⋯"
            assert "partial" in attrs["class"]
        else:
            assert shown == text.replace("\t", "⇥\t").replace("\u202e", "⟨U+202E⟩").replace("\u200d", "⟨U+200D⟩")
    assert page.all("span", class_="special")[0][1] == "<|end|>"
    assert page.all("p", class_="summary")[0][1].endswith(" · beta 1.5 · note <i>x</i>")
    read = read_back(page)[0]
    assert [t.text for t in read] == NASTY
    for got, want in zip(read, nasty().tokens, strict=True):
        assert got.tv == pytest.approx(want.tv, rel=1e-4)
        assert got == replace(want, tv=got.tv, kl=got.kl, special=False)


def test_shades_and_marks(page):
    tokens = page.all("span", class_="token")
    shades = [float(attrs["style"].partition(":")[2]) for attrs, _ in tokens[: len(NASTY)]]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (0.0, 1.0)
    assert [attrs.get("tabindex") for attrs, _ in tokens].count("0") == 2, "one stop of the Tab key for each text"
    assert "accepted" in tokens[0][0]["class"]
    assert "rejected" in tokens[1][0]["class"]
    assert page.all("noscript")[0][1].startswith("The table")


def columns(path):
    """Left, width and height of each bar of a path."""
    found = re.findall(r"M(\S+) 120V(\S+)h(\S+)V120", path)
    assert "".join("M{} 120V{}h{}V120".format(*bar) for bar in found) == path
    return [(float(left), float(width), 120 - float(top)) for left, top, width in found]


@pytest.mark.parametrize("count", [1, 3, 999, 1000, 1001, 2500, 20_000])
def test_bars(count):
    shades = [((i * 7919) % 101) / 100 for i in range(count)]
    each = 1
    while count / each > 1000:
        each += 1
    want = {}
    for i, shade in enumerate(shades):
        want[i // each] = max(want.get(i // each, 0.0), shade)
    want = {i: top for i, top in want.items() if top > 0}
    got = columns(bars(shades))
    assert [height for _, _, height in got] == pytest.approx([120 * top for top in want.values()], abs=0.06)
    assert [left for left, _, _ in got] == pytest.approx([1000 * i * each / count for i in want], abs=0.006)
    assert all(width == pytest.approx(860 * each / count, rel=1e-3) for _, width, _ in got)


def test_a_chart_for_each_measure(page):
    paths = [attrs for tag, attrs, _ in page.elements if tag == "path"]
    assert [attrs["data-measure"] for attrs in paths[:5]] == ["tv", "kl", "entropy", "surprise", "reward"]
    assert ["hidden" in attrs for attrs in paths[:5]] == [False] + 4 * [True]
    assert [height for _, _, height in columns(paths[0]["d"])] == pytest.approx(
        [120 * i / 14 for i in range(1, 15)], abs=0.7
    )


def test_pieces():
    def cut(texts):
        found = pieces([token(text, 0) for text in texts])
        assert [t for piece in found for t in piece] == list(range(len(texts)))
        return [len(piece) for piece in found]

    assert cut(["x"] * 400) == [400]
    assert cut(["x"] * 1000) == [400, 400, 200], "anywhere"
    assert cut(["x"] * 350 + [" x"] + ["x"] * 100) == [350, 101], "between words"
    assert cut(["x"] * 400 + [" x"]) == [400, 1]
    assert cut(["x"] * 250 + ["\n"] + [" x"] * 200) == [251, 200], "between lines"
    assert cut(["\n"] + ["x"] * 400) == [400, 1], "not too short"


def test_long_texts_are_small_pages():
    """These take a tenth of the 10 MB that 20,000 tokens may take; nothing is left out."""
    record = long(2000)
    html = report_html([record])
    assert len(html.encode()) < 1_200_000
    page = Page(html)
    assert len(page.elements) < 2000 + 200
    for got, want in zip(read_back(page)[0], record.tokens, strict=True):
        assert (got.id, got.text, got.rank) == (want.id, want.text, want.rank)
        assert got.logprobs == pytest.approx(want.logprobs, rel=5e-5)
        for mine, yours in ((got.candidates, want.candidates), (got.up, want.up), (got.down, want.down)):
            assert [(c.id, c.text) for c in mine] == [(c.id, c.text) for c in yours]
        assert got.candidates[-1].logprobs == pytest.approx(want.candidates[-1].logprobs, rel=5e-5)
        assert got.down[-1].log_ratio == pytest.approx(want.down[-1].log_ratio, rel=5e-5)


def test_measures_of_a_record():
    found = view(nasty())
    assert found.measures["reward"][0] == pytest.approx(-0.5)
    assert found.measures["surprise"][0] == pytest.approx(0.1)
    assert found.measures["entropy"][0] == 0.25
    assert max(found.shades["kl"]) == 1.0
    assert "15 tokens" in found.summary
    bare = Record.from_dict({"tokens": [{"id": 1, "text": "x", "logprobs": [None]}], "names": ["mixture"]})
    assert view(bare).measures == {key: [None] for key in found.measures}
    assert Page(report_html([bare])).unclosed == []


def test_the_model_that_is_compared_is_named():
    """Another than tuned: for methods that have none of this name."""
    record = replace(plain(), names=["large", "polite", "base", "mixture"], compared="polite")
    page = Page(report_html([record]))
    lead = page.all("p", class_="lead")[0][1]
    assert "the mixture is from polite there" in lead
    assert "tuned" not in lead
    assert page.all("span", id="explained")[0][1] == "mixture against polite, 0 to 1"
    assert [attrs["value"] for attrs, _ in page.all("option")] == ["tv", "kl", "entropy", "surprise"], "no reward"
    both = Page(report_html([record, plain()]))
    assert "from the model that is compared there" in both.all("p", class_="lead")[0][1]
    assert Record.from_dict(record.to_dict()) == record


def test_invisible_characters_are_seen_wherever_text_stands():
    text = "\u200b\ud800"  # half a surrogate pair, which no file could hold
    record = Record([token(text, 0)], prompt=text, options={text: text}, names=["large", "tuned", text, "mixture"])
    html = report_html([replace(record, compared=text)], title=text)
    assert text.encode("utf-16", "surrogatepass") not in html.encode("utf-16", "surrogatepass")
    page, mark = Page(html), "⟨U+200B⟩⟨U+D800⟩"
    assert page.all("title")[0][1] == page.all("h1")[0][1] == mark
    assert page.all("h2")[0][1] == f"Prompt {mark}"
    assert page.all("p", class_="summary")[0][1].endswith(f"at token 1, {mark} · {mark} {mark}")
    assert page.all("span", class_="token")[0][1] == mark
    html.encode("utf-8")


def test_the_words_hold_in_light_and_dark():
    lead = Page(report_html([plain()])).all("p", class_="lead")[0][1]
    assert "The stronger a token's\nshade, the further" in lead
    assert "darker" not in lead
    assert [view(plain(text)).summary.partition(";")[0] for text in ("a", "a b")] == ["1 token", "2 tokens"]


def test_what_has_no_mixture_is_shaded_by_what_there_is():
    """Records of `eft_ext.dynamics.delta_records`: log-probabilities of two models, nothing else."""
    tokens = [Token(i, f" {i}", [-1.0, -1.0 - i], entropy=[1.0, 2.0]) for i in range(3)]
    page = Page(report_html([Record(tokens, names=["tuned", "base"])]))
    assert [attrs["value"] for attrs, _ in page.all("option")] == ["reward"]
    shades = [float(attrs["style"].partition(":")[2]) for attrs, _ in page.all("span", class_="token")]
    assert shades == [0.0, 0.5, 1.0]
    assert page.all("svg")[0][0]["aria-label"].startswith("Reward over the positions")
    assert page.all("span", class_="axis-name")[0][1] == "reward"
    assert page.all("span", class_="token")[0][0]["aria-label"] == " 0, token 1, reward 0.000"


def test_nothing_to_show():
    with pytest.raises(ValueError, match="records: expected at least one"):
        report_html([])
    with pytest.raises(ValueError, match=re.escape("records[0].tokens: expected at least one")):
        report_html([Record([])])
