"""Characters without ink become marks; all that can be seen stays as it is."""

import unicodedata

import pytest

from eft_ext.analysis.visible import marks, on_one_line, visible

INVISIBLE = [0x00, 0x1B, 0x7F, 0xAD, 0x61C, 0x115F, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2028, 0x2060, 0x3164]
INVISIBLE += [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xD800, 0xFE0F, 0xFEFF, 0xE0041, 0xE0100]
SEEN = [
    "a",
    " ",
    "\u00a0",
    "é",
    "e\u0301",
    "漢字",
    "مرحبا",
    "שָׁלוֹם",
    "👩",
    "क्ष",
    "\u0600",
    "\ue000",
    "\ufffd",
    "⟨",
    "<b>&",
]


@pytest.mark.parametrize("point", INVISIBLE)
def test_marks(point):
    mark = "⟨U+" + format(point, "X").rjust(4, "0") + "⟩"
    assert visible(f"a{chr(point)}b") == f"a{mark}b"
    assert on_one_line(chr(point)) == mark
    assert marks([f"a{chr(point)}b"]) == {"": "⋯", chr(point): mark}


@pytest.mark.parametrize("text", SEEN)
def test_what_is_seen_stays(text):
    assert visible(text) == text
    assert on_one_line(text) == text.replace(" ", "·")


def test_nothing_turns_the_direction_of_its_neighbours():
    """All the controls that the bidirectional algorithm knows."""
    controls = [c for c in map(chr, range(0x110000)) if len(unicodedata.bidirectional(c)) == 3]
    controls = [c for c in controls if unicodedata.bidirectional(c) not in ("NSM",)]
    assert {"\u202e", "\u2067"} < set(controls)
    assert not set(controls) & set(visible("".join(controls)))


def test_lines_and_spaces():
    assert visible("a b\n\tc\r") == "a b↵\n⇥\tc␍"
    assert on_one_line("a b\n\tc\r") == "a·b↵⇥c␍"
    assert (visible(""), on_one_line(""), visible(1.5)) == ("", "⋯", "1.5")
    assert marks(["a b\n\tc\r", ""]) == {"": "⋯", " ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
