"""The token report in a headless Chromium: it renders, pointing and keys work, nothing of a model runs."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from eft_ext.analysis import Candidate, Change, Record
from python_tests.analysis.browsing import ActionChains, By, Keys, Select, click, panel, settled_panel, table, tokens
from python_tests.analysis.pages import NASTY, nasty, plain, row, token

pytestmark = pytest.mark.slow


def test_it_renders_and_nothing_of_a_model_runs(page):
    got = page([nasty()])
    assert got.get_log("browser") == []
    assert got.execute_script("return window.hacked") is None
    assert len(tokens(got)) == len(NASTY)
    assert tokens(got)[1].get_attribute("textContent") == NASTY[1]
    assert all(t.size["width"] > 0 for t in tokens(got)), "each can be pointed at"
    for each in tokens(got):
        ActionChains(got).move_to_element(each).perform()
    assert got.execute_script("return window.hacked") is None
    assert got.get_log("browser") == []
    assert got.execute_script("return document.querySelectorAll('script:not([type])').length") == 1
    darkness = [t.value_of_css_property("background-color") for t in tokens(got)]
    assert len(set(darkness)) == len(NASTY), "each its own shade of total variation"


def test_pointing_shows_what_all_models_thought(page):
    got = page([nasty()])
    ActionChains(got).move_to_element(tokens(got)[1]).perform()
    said = panel(got)
    for word in (NASTY[1].strip(), "token 2 of 15", "rejected", "large", "tuned", "base", "mixture", "entropy", "0.25"):
        assert word in said, word
    assert "↑ ×6.7" in said, "exp(1.9) more likely than under tuned"
    assert "large 0.250" in said, "attribution"
    assert "</bdi><script>" in said
    assert got.execute_script("return getComputedStyle(document.querySelector('#panel')).position") == "sticky"


def test_clicking_keeps_and_escape_lets_go(page):
    got = page([plain("one two three four")])
    first, second, third = tokens(got)[:3]
    second.click()
    ActionChains(got).move_to_element(third).perform()
    assert "token 2 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.ESCAPE).move_to_element(first).perform()
    assert "token 1 of 4" in panel(got)


def test_keys_alone_suffice(page):
    got = page([plain("one two three four"), plain("five six")])
    got.find_element(By.ID, "measure").send_keys(Keys.TAB)
    assert "token 1 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert "token 3 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.END).perform()
    assert "token 4 of 4" in panel(got)
    outline = got.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid", "where the keys are can be seen"
    ActionChains(got).send_keys(Keys.TAB, Keys.TAB, Keys.TAB).perform()
    assert "token 1 of 2" in panel(got), "one stop for each text; its table is another"


def test_right_to_left_text_runs_right_to_left(page):
    got = page([row(NASTY[6].strip(), NASTY[7])])
    first, second = tokens(got)
    assert first.location["x"] > second.location["x"]
    first.click()
    ActionChains(got).send_keys(Keys.ARROW_LEFT).perform()
    assert "token 2 of 2" in panel(got), "left is onwards"


def test_a_word_of_several_tokens_is_joined_and_in_order(page):
    """Within text of the other direction too."""
    got = page([row("He said مس", "تشفى", " twice")])
    width = """const text = document.createRange();
      text.selectNodeContents(document.querySelector('.piece'));
      return text.getBoundingClientRect().width"""
    joined = got.execute_script(width)
    assert tokens(got)[1].location["x"] < tokens(got)[2].location["x"]
    got.execute_script("arguments[0].after('\u200c')", tokens(got)[0])  # joins no more
    assert got.execute_script(width) != pytest.approx(joined, abs=0.1), "the measure sees a join"
    whole = page([row("He said مستشفى", " twice")])
    assert whole.execute_script(width) == pytest.approx(joined, abs=0.1)


def test_an_override_turns_no_neighbour(page):
    got = page([row("one", " two\u202e", "three", "\u2067four", "five")])
    places = [t.location["x"] for t in tokens(got)]
    assert places == sorted(places)
    assert tokens(got)[1].text == " two⟨U+202E⟩"


def test_invisible_characters_are_seen_in_the_panel(page):
    hidden = token("\u200b", 1, 3)
    listed = [Candidate(5, "a\u2060b c", [-1.0] * 4), Candidate(6, "", [-1.0] * 4)]
    changed = replace(hidden, candidates=listed, up=[Change(7, "\ufeff", 1.0)], down=[Change(8, "\n", -1.0)])
    changed = replace(changed, attribution={"own\u00ad": 0.5})
    names = ["large", "tu\u200bned", "base", "mixture"]
    got = page([Record([changed], names=names, compared=names[1])])
    assert tokens(got)[0].size["width"] > 20
    tokens(got)[0].click()
    cells = [cell.text for cell in settled_panel(got).find_elements(By.CSS_SELECTOR, "tbody td:first-child")]
    assert cells == ["a⟨U+2060⟩b·c", "⋯", "⟨U+200B⟩", "entropy"]
    assert "↑ ⟨U+FEFF⟩" in panel(got)
    assert "↓ ↵" in panel(got)
    assert "large tu⟨U+200B⟩ned base mixture" in panel(got)
    assert "mixture against tu⟨U+200B⟩ned" in panel(got)
    assert "↑ ×6.7" in panel(got), "the change against it"
    assert "own⟨U+00AD⟩ 0.500" in panel(got)


def test_all_that_is_long_is_broken(page):
    long = "x" * 300
    names = ["large", long, "base", "mixture"]
    record = Record([token("a", 0), token(long, 1, 3)], long, names, {long: long, "note": long}, compared=long)
    for width in (1200, 380):
        got = page([record], width)
        for open_panel in (False, True):
            if open_panel:
                got.execute_script("document.querySelector('details').open = true")
                click(got, tokens(got)[0])
                ActionChains(got).send_keys(Keys.ESCAPE, Keys.ARROW_RIGHT).perform()
                assert "token 2 of 2" in panel(got)
            assert got.execute_script("return document.scrollingElement.scrollWidth") <= width
            beside = 380 if width == 380 else got.execute_script("return document.querySelector('#panel').offsetLeft")
            for kind in ("h2", ".summary", ".text", ".token", ".axis", ".wide"):
                for element in got.find_elements(By.CSS_SELECTOR, kind):
                    right = got.execute_script("return arguments[0].getBoundingClientRect().right", element)
                    assert right <= beside, f"{kind} runs under the panel"


@pytest.mark.parametrize("width", [380, 600, 900, 1200])
@pytest.mark.parametrize("name", ["talkative", "an-expert-of-its-own", "x" * 300])
def test_heads_of_the_panel_stand_side_by_side(page, name, width):
    got = page([replace(row("a", "b"), names=["large", name, "base", "mixture"], compared=name)], width)
    click(got, tokens(got)[1])
    heads = settled_panel(got).find_elements(By.CSS_SELECTOR, "thead th")
    spans = got.execute_script(
        """return arguments[0].map((cell) => {
      const text = document.createRange();
      text.selectNodeContents(cell);
      const box = text.getBoundingClientRect();
      return [box.left, box.right];
    })""",
        heads,
    )
    assert len(spans) == 6
    for (_, end), (start, _) in pairwise(spans):
        assert end < start
    assert name != "talkative" or all(head.size["height"] < 30 for head in heads), "a word as long as this stays whole"


def test_other_shades(page):
    got = page([nasty()])
    before = tokens(got)[0].get_attribute("style")
    Select(got.find_element(By.ID, "measure")).select_by_value("surprise")
    assert tokens(got)[0].get_attribute("style") != before
    assert "surprise 0.1" in tokens(got)[0].get_attribute("aria-label")
    assert "surprise" in got.find_element(By.CSS_SELECTOR, ".axis-name").text


def test_the_name_of_the_token_that_has_the_keys(page):
    changed = [replace(t, logprobs=[-1.0, -1.0, -1.0 - i, -1.0]) for i, t in enumerate(plain("a b c").tokens)]
    got = page([Record(changed)])
    Select(got.find_element(By.ID, "measure")).select_by_value("reward")
    first, _, third = tokens(got)
    assert first.get_attribute("aria-label") == "a , token 1, reward 0.000"
    assert third.get_attribute("aria-label") is None
    first.click()
    ActionChains(got).send_keys(Keys.END).perform()
    assert got.switch_to.active_element == third
    assert third.get_attribute("aria-label") == "c , token 3, reward 2.000"
    assert (third.get_attribute("role"), third.get_attribute("tabindex")) == ("button", "0")
    assert first.get_attribute("tabindex") is None


def test_other_shades_are_drawn(page):
    got = page([nasty()])
    paths = "return [...document.querySelectorAll('.chart path')].filter((p) => getComputedStyle(p).display != 'none')"
    assert [p.get_attribute("data-measure") for p in got.execute_script(paths)] == ["tv"]
    Select(got.find_element(By.ID, "measure")).select_by_value("kl")
    assert [p.get_attribute("data-measure") for p in got.execute_script(paths)] == ["kl"]
    shades = [float(t.get_attribute("style").partition(":")[2].strip(" ;")) for t in tokens(got)]
    assert shades == pytest.approx([i / 14 for i in range(15)], abs=0.006)


def test_pointing_at_the_chart(page):
    got = page([plain("one two three four")])
    chart = got.find_element(By.CSS_SELECTOR, ".chart")
    ActionChains(got).move_to_element_with_offset(chart, chart.size["width"] // 8, 0).perform()
    assert "token 3 of 4" in panel(got)
    assert "here" in tokens(got)[2].get_attribute("class")
    bar, box = got.find_element(By.CSS_SELECTOR, ".chart .here").rect, chart.rect
    assert bar["x"] == pytest.approx(box["x"] + box["width"] / 2, abs=1.5)
    assert bar["width"] == pytest.approx(box["width"] / 4, rel=0.2)


def test_the_table(page):
    records = [nasty(), plain("x y")]
    got = page(records)
    assert not got.find_elements(By.TAG_NAME, "tr")
    rows = table(got)
    heads = [head.text for head in got.find_elements(By.CSS_SELECTOR, "thead th")]
    assert heads[:6] == ["#", "token", "p large, %", "p tuned, %", "p base, %", "p mixture, %"]
    assert heads[6:] == ["rank", "total variation", "KL", "entropy", "reward", "draft", "more likely", "less likely"]
    for i, (cells, each) in enumerate(zip(rows, records[0].tokens, strict=True)):
        tv, mark = f"{i / 14:.3f}", each.speculation or "–"
        figures = ["60.7", "13.5", "22.3", "90.5", "1", tv, f"{i / 7:.3f}", "0.250", "-0.500", mark]
        assert [cells[0], *cells[2:12]] == [str(i + 1), *figures]
        assert cells[12] == f"↑ {cells[1]}"
        assert cells[13] == "↓ \u2068·<b>down</b>\u2069"
    assert [rows[i][1].strip("\u2068\u2069") for i in (0, 4, 11)] == ["Hello", "↵", "⋯"]
    assert len(got.find_elements(By.CSS_SELECTOR, "tbody tr")) == 15, "the other table is not opened"


def test_shares(page):
    cases = {0.0: "100", math.log(0.123): "12.3", math.log(0.00012): "0.012", math.log(3e-9): "3e-7", None: "0"}
    shown = [replace(token("x", i), logprobs=[p] * 4) for i, p in enumerate(cases)]
    assert [cells[2:6] for cells in table(page([Record(shown)]))] == [[share] * 4 for share in cases.values()]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_light_dark_and_narrow(page, dark, width):
    got = page([nasty()], width, dark)
    tokens(got)[3].click()
    body = got.find_element(By.TAG_NAME, "body")

    def brightness(css):
        return sum(int(x) for x in css[css.index("(") + 1 : -1].replace(" ", "").split(",")[:3]) / 3

    back, front = (brightness(body.value_of_css_property(p)) for p in ("background-color", "color"))
    assert (back < 60 and front > 200) if dark else (back > 240 and front < 60)
    assert got.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    place = got.execute_script("return getComputedStyle(document.querySelector('#panel')).position")
    assert place == ("fixed" if width == 390 else "sticky")
    box, token = settled_panel(got).rect, tokens(got)[3]
    bottom = got.execute_script("return arguments[0].getBoundingClientRect().bottom", token)
    top = got.execute_script("return document.querySelector('#panel').getBoundingClientRect().top")
    assert box["height"] > 50
    assert width == 1200 or bottom <= top + 1, "the panel does not hide the token"
