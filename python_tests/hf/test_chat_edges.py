"""Chats that are easily misread: system messages that stand elsewhere too, thoughts by row, contents that are none."""

import copy
import re

import pytest

from eft_ext.hf import EmulatedModel, SystemMessageWarning
from python_tests.helpers.added_tokens import trio

TURNS = "{% for m in messages %}({{ m.role[0] }}){{ m.content }}{% endfor %}"
CHATML = TURNS + "{% if add_generation_prompt %}(a){% endif %}"
DROPPING = CHATML.replace("messages %}", "messages if m.role != 'system' %}")
DEFAULT = "{% if messages[0].role != 'system' %}(s)be kind{% endif %}" + CHATML
THINKING = CHATML.replace("(a){%", "(a){% if messages | length == 1 %}<think>{% endif %}{%")
ASKED = [{"role": "user", "content": "how to be kind?"}]
AGAIN = [*ASKED, {"role": "assistant", "content": "so"}, *ASKED]
TOLD = [{"role": "system", "content": "be kind"}, *ASKED]


@pytest.fixture
def texts(llamas, tokenizer):
    """texts(templates of large, tuned and base, chats, how) -> the texts that each model reads, by name."""

    def read(templates, chats, **how):
        each = {name: copy.deepcopy(tokenizer) for name in ("large", "tuned", "base")}
        for own, template in zip(each.values(), templates, strict=True):
            own.chat_template = template
        model = EmulatedModel(*llamas, each)
        found = model.encode(chats, None, {"chat": "template"}, model.method, **how)
        return {name: list(found.get(name, found["large"]).texts) for name in each}

    return read


def test_a_dropped_system_message_that_the_user_says_too(texts):
    with pytest.warns(SystemMessageWarning, match=r"^tuned: "):
        got = texts((CHATML, DROPPING, CHATML), TOLD)
    assert got["tuned"] == ["(u)be kind\n\nhow to be kind?(a)"]
    assert got["large"] == ["(s)be kind(u)how to be kind?(a)"]


def test_a_system_message_that_a_template_says_by_itself(texts):
    """It is neither moved nor said twice."""
    assert texts((CHATML, DEFAULT, CHATML), TOLD)["tuned"] == ["(s)be kind(u)how to be kind?(a)"]


def test_a_dropped_system_message_without_a_user(texts):
    said = "inputs: expected a user's message to hold the system message, which the chat template drops"
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}$"):
        texts((CHATML, DROPPING, CHATML), TOLD[:1])


def test_a_thought_is_open_in_its_row_alone(texts):
    got = texts((CHATML, THINKING, CHATML), [ASKED, AGAIN])
    one, other = "(u)how to be kind?(a)", "(u)how to be kind?(a)so(u)how to be kind?(a)"
    assert got == {name: [f"{one}<think>", other] for name in ("large", "tuned", "base")}


@pytest.mark.parametrize("content", [5, ["text"], {"text": "x"}])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_contents_that_are_none(texts, role, content):
    with pytest.raises(ValueError, match=r"^inputs: expected a content that is text, or its parts, got "):
        texts((CHATML, DROPPING, CHATML), [*TOLD, {"role": role, "content": content}])


def test_a_user_without_a_content(texts):
    with pytest.warns(SystemMessageWarning):
        got = texts((CHATML, DROPPING, CHATML), [TOLD[0], {"role": "user", "content": None}])
    assert got["tuned"] == ["(u)be kind\n\n(a)"]


def test_a_tokenizer_for_stop_strings_changes_no_prompt(texts, tokenizer, llamas):
    """transformers wants one beside stop_strings; what the models read stays."""
    given = copy.deepcopy(tokenizer)
    given.chat_template = CHATML
    assert texts((CHATML, THINKING, None), ASKED, tokenizer=given) == texts((CHATML, THINKING, None), ASKED)
    each = trio()
    model = EmulatedModel(*llamas, each)
    wanted = [row for prompt in model.encode("a<think>", None, {}, model.method).values() for row in prompt.rows]
    found = model.encode("a<think>", None, {}, model.method, tokenizer=each["tuned"])
    assert [row for prompt in found.values() for row in prompt.rows] == wanted
    assert len(wanted[0]) == 8, "letters to large"
