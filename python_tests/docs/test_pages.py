"""Pages: links lead somewhere, sentences are short, and what no GPU has run stands in one place."""

import os
import re

import pytest

from python_tests.docs.pages import ALL_PAGES, ROOT

PROSE = [page for page in ALL_PAGES if page != "CHANGELOG.md"]
BLOCK = re.compile(r"^ *```.*?^ *```$", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
MAX_WORDS = 20  # a sentence, on a page's average
# A GPU's record stands in the ledger, and once in the README.
UNPROVED = re.compile(
    r"\b(?:not|never|nothing|no GPU|neither|none)\b[^.|]{0,40}\b(?:run|measured)\b[^.|]{0,20}\b(?:device|GPU|them)\b"
)


def test_pages_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/guides/methods.md", "docs/gpu.md"} <= set(ALL_PAGES)


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links(page):
    """Relative ones; within docs/ they stay there, so that the site has them too."""
    for target, anchor in LINK.findall(BLOCK.sub("", ALL_PAGES[page])):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page
        assert (ROOT / there).exists(), f"{target} is not there"
        if page.startswith("docs/"):
            assert there.startswith("docs/"), f"{target} is no page of the site"
        if anchor and there.endswith(".md"):
            assert anchor in anchors(ALL_PAGES[there]), f"{target}#{anchor}: no such heading"


def anchors(page):
    """Anchors of headings, by the rule of GitHub and of the site."""
    headings = re.findall(r"^#+ +(.*?) *$", BLOCK.sub("", page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors():
    assert anchors("# Which one?\n```\n# a comment\n```\n## A `b` c-d\n") == {"which-one", "a-b-c-d"}


@pytest.mark.parametrize("page", PROSE)
def test_sentences_are_short(page):
    lengths = [len(sentence.split()) for sentence in sentences(ALL_PAGES[page])]
    assert not lengths or sum(lengths) / len(lengths) < MAX_WORDS


def sentences(page):
    """Those of paragraphs and lists. A span of code and a link's words are as many words as they look."""
    page = re.sub(r"<!--.*?-->", "", BLOCK.sub("\n", page), flags=re.S)
    page = re.sub(r"^ *([-*]|\d+\.) +", "\n\n", page, flags=re.M)  # an item is a paragraph
    page = re.sub(r"`[^`]*`", "code", LINK.sub("]", page))
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", page)]
    return [
        sentence
        for paragraph in paragraphs
        if not paragraph.startswith(("#", "|", "![", ":::", "    "))
        for sentence in re.split(r"(?<=[.!?])[)*_\"]*\s+", paragraph)
        if re.search(r"\w", sentence)
    ]


def test_sentences():
    """Counted as a reader would."""
    page = "# N\n\nOne two. Three `a b` four!\n\n| no | no |\n\n- five\n  six\n- [seven eight](x.md)?\n\n```\nno\n```\n"
    assert [len(each.split()) for each in sentences(page)] == [2, 3, 2, 2]


def test_what_ran_on_a_gpu_is_said_once():
    found = {page for page in ALL_PAGES if UNPROVED.search(ALL_PAGES[page])}
    assert found <= {"README.md", "docs/gpu.md"}
