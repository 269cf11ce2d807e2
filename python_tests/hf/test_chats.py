"""Chats: each model reads its own template, and all of them end where the same answer begins.

Expected ids are of plain calls of a tokenizer, expected tokens of a plain loop over the three models.
"""

import copy
import re
import warnings

import pytest
import torch

from eft_ext.hf import EmulatedModel, SystemMessageWarning
from eft_ext.hf.checkpoint.pack import pack
from eft_ext.methods import UpScale
from python_tests.helpers.chat_ids import CHATML, DROPPING, INST, REFUSING, TEMPLATES, THINKING, by_template, each, read

NEW = 8
ASKED = [{"role": "user", "content": "hi"}]
BEGUN = [*ASKED, {"role": "assistant", "content": "Yes, so"}]
TOLD = [{"role": "system", "content": "be kind"}, *ASKED]
MERGED = [{"role": "user", "content": "be kind\n\nhi"}]


@pytest.fixture(scope="module")
def load(tmp_path_factory, tokenizer, build):
    """load(templates) -> the trio in folders of its own, or None where only the folders are wanted."""
    root = tmp_path_factory.mktemp("chats")
    sizes = {"large": (0, 32, 272), "tuned": (1, 16, 264), "base": (2, 16, 264)}
    for name, size in sizes.items():
        build("llama", *size).save_pretrained(root / name)

    def loaded(templates, only_folders=False):
        for name, template in zip(sizes, templates, strict=True):
            (root / name / "chat_template.jinja").unlink(missing_ok=True)
            tokenizer.chat_template = template
            tokenizer.save_pretrained(root / name)
        tokenizer.chat_template = None
        folders = {name: str(root / name) for name in sizes}
        return folders if only_folders else EmulatedModel.from_pretrained(**folders, quiet=True)

    return loaded


EXPECTED = {  # templates, form, chat, and for each model a template and a chat, or a text
    "one": ("one", "template", ASKED, (CHATML, ASKED)),
    "one transcript": ("one", "transcript", ASKED, (CHATML, ASKED)),
    "one begun": ("one", "template", BEGUN, (CHATML, BEGUN)),
    "one told": ("one", "template", TOLD, (CHATML, TOLD)),
    "borrowed": ("tuned's", "template", ASKED, (CHATML, ASKED)),
    "borrowed begun": ("tuned's", "template", BEGUN, (CHATML, BEGUN)),
    "transcript": (
        *("tuned's", "transcript", ASKED),
        *((None, "User: hi\nAssistant:\n"), (CHATML, ASKED), (None, "User: hi\nAssistant:\n")),
    ),
    "transcript begun": (
        *("tuned's", "transcript", BEGUN),
        *((None, "User: hi\nAssistant:\nYes, so"), (CHATML, BEGUN), (None, "User: hi\nAssistant:\nYes, so")),
    ),
    "transcript told": (
        *("tuned's", "transcript", TOLD),
        *((None, "be kind\n\nUser: hi\nAssistant:\n"), (CHATML, TOLD)),
        (None, "be kind\n\nUser: hi\nAssistant:\n"),
    ),
    "own": ("their own", "template", ASKED, (INST, ASKED), (CHATML, ASKED), (CHATML, ASKED)),
    "own begun": ("their own", "transcript", BEGUN, (INST, BEGUN), (CHATML, BEGUN), (CHATML, BEGUN)),
    "own told": ("their own", "template", TOLD, (INST, TOLD), (CHATML, TOLD), (CHATML, MERGED)),
}


@pytest.mark.filterwarnings("ignore::eft_ext.hf.inputs.chats.SystemMessageWarning")
@pytest.mark.parametrize("case", EXPECTED)
def test_every_model_reads_its_own_form(load, tokenizer, naive, case):
    which, form, chat, *wanted = EXPECTED[case]
    model = load(TEMPLATES[which])
    ids = [by_template(tokenizer, *one) for one in (wanted * 3 if len(wanted) == 1 else wanted)]
    assert read(model, chat, chat=form) == each(*ids)
    answer = naive((model.large, model.tuned, model.base), (1, 1, -1), ids, NEW)
    got = model.generate(chat, chat=form, max_new_tokens=NEW, do_sample=False)
    assert got[0].tolist() == [*ids[0], *answer]


def test_one_template_is_read_once(load):
    """Nothing is given to single models, so that every loop of transformers reads it."""
    model = load(TEMPLATES["one"])
    assert model.words.templates == {}
    assert list(model.encode([ASKED, BEGUN], None, {}, model.method)) == ["large"]
    assert list(load(TEMPLATES["tuned's"]).encode(ASKED, None, {}, model.method)) == ["large"]


@pytest.fixture(params=["parts", "packed", "saved", "wrapped"])
def entry(request, load, tmp_path):
    """The models with templates of their own, loaded, out of a checkpoint, and as a model of transformers."""
    model = load(TEMPLATES["their own"])
    if request.param == "packed":
        folders = load(TEMPLATES["their own"], only_folders=True)
        pack(tmp_path / "trio", folders, UpScale())
        model = EmulatedModel.from_pretrained(str(tmp_path / "trio"), quiet=True)
    elif request.param == "saved":
        model.causal_lm().save_pretrained(tmp_path / "trio")
        model = EmulatedModel.from_pretrained(str(tmp_path / "trio"), quiet=True)
    elif request.param == "wrapped":
        model = EmulatedModel.over(model.causal_lm())
    return model


def test_every_entry(entry, tokenizer, naive):
    ids = [by_template(tokenizer, template, ASKED) for template in (INST, CHATML, CHATML)]
    answer = naive((entry.large, entry.tuned, entry.base), (1, 1, -1), ids, NEW)
    options = {"max_new_tokens": NEW, "do_sample": False}
    text = tokenizer.decode(answer, skip_special_tokens=True)
    assert entry.generate_text([ASKED, ASKED], **options) == [text, text]
    assert entry.generate_batch([ASKED, ASKED, ASKED], batch_size=2, **options) == [answer] * 3
    assert sorted(entry.generate_as_completed([ASKED], **options)) == [(0, answer)]
    assert entry.causal_lm().generate(ASKED, **options)[0].tolist() == [*ids[0], *answer]
    assert entry.plan(ASKED, chat="transcript", **options).tier == entry.plan(**options).tier
    score = entry.score(ASKED, [answer])
    whole = {m: torch.tensor([[*own, *answer]]) for m, own in zip(("large", "tuned", "base"), ids, strict=True)}
    for name, sequence in whole.items():
        with torch.no_grad():
            logits = getattr(entry, name)(sequence).logits[0, -len(answer) - 1 : -1, : entry.vocab_size].double()
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
        assert score.logprobs[0, score.names.index(name)].item() == pytest.approx(wanted.item(), abs=1e-3)


def test_prompts_of_single_models(load, tokenizer):
    """A chat for one beside a chat or a text for the others."""
    model = load(TEMPLATES["tuned's"])
    kind = [{"role": "system", "content": "k"}, *ASKED]
    plain, chat, other = (by_template(tokenizer, CHATML, x) for x in ("hi", ASKED, kind))
    assert read(model, ASKED, tuned=kind) == each(chat, other, chat)
    assert read(model, "hi", tuned=ASKED) == each(plain, chat, plain)
    assert read(model, tuned="hi", large=ASKED) == each(chat, plain, chat)
    said = by_template(tokenizer, None, "User: hi\nAssistant:\n")
    assert read(model, ASKED, tuned=kind, chat="transcript") == each(said, other, said)
    assert read(model, "hi", base=ASKED, chat="transcript") == each(plain, plain, said)
    several = read(model, [ASKED, BEGUN], tuned=["a", "b"])
    assert several["large"] == [chat, by_template(tokenizer, CHATML, BEGUN)]
    assert several["tuned"] == [tokenizer(x).input_ids for x in "ab"]


@pytest.mark.parametrize("template", [REFUSING, DROPPING], ids=["raises", "drops"])
def test_a_system_message_that_a_template_has_no_place_for(load, tokenizer, template):
    model = load((CHATML, CHATML, template))
    with pytest.warns(SystemMessageWarning) as said:
        got = read(model, [TOLD, TOLD])
    assert [str(w.message) for w in said] == [
        "base: the chat template takes no system message, so that the first user's text begins with it"
    ]
    assert got["base"] == [by_template(tokenizer, template, MERGED)] * 2
    assert got["tuned"] == [by_template(tokenizer, CHATML, TOLD)] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(model, ASKED)
        with pytest.raises(SystemMessageWarning):
            model.generate_text(TOLD, max_new_tokens=1)
    with pytest.warns(SystemMessageWarning, match=r"^tuned: "):
        got = read(load((None, template, None)), TOLD)
    assert got == each(*[by_template(tokenizer, template, MERGED)] * 3)


def test_a_thought_that_one_template_opens_is_open_in_all(load, tokenizer):
    tuned = by_template(tokenizer, THINKING, ASKED)
    open_ = tokenizer("<think>\n").input_ids
    model = load((INST, THINKING, None))
    said = tokenizer("User: hi\nAssistant:\n<think>\n").input_ids
    assert read(model, ASKED, chat="transcript") == each(by_template(tokenizer, INST, ASKED) + open_, tuned, said)
    assert read(model, ASKED) == each(by_template(tokenizer, INST, ASKED) + open_, tuned, tuned)
    begun = by_template(tokenizer, CHATML, BEGUN)
    assert read(model, BEGUN)["tuned"] == [begun], "nothing is opened in a message that has begun"


def test_answers_that_begin_with_a_space(load, tokenizer):
    """A transcript leaves it to the answer, as the template does."""
    model = load((None, INST, None))
    said = [tokenizer(text).input_ids for text in ("User: hi\nAssistant:", "User: hi\nAssistant: Yes, so")]
    assert read(model, [ASKED, BEGUN], chat="transcript")["base"] == said


def test_blanks_that_one_template_strips_are_read_by_no_model(load, tokenizer):
    trimming = CHATML.replace("m.content", "m.content | trim")
    blank = [*ASKED, {"role": "assistant", "content": "Yes, so \n"}]
    assert read(load((CHATML, trimming, CHATML)), blank)["large"] == [by_template(tokenizer, CHATML, BEGUN)]
    assert read(load(TEMPLATES["one"]), blank)["large"] == [by_template(tokenizer, CHATML, blank)]


def test_without_any_template(load, tokenizer):
    model = load((None, None, None))
    said = tokenizer("User: hi\nAssistant:").input_ids
    assert read(model, ASKED, chat="transcript") == each(said, said, said)
    parts = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    assert read(model, parts, chat="transcript")["large"] == [said]
    for call in (model.generate, model.generate_text, model.generate_batch, model.score, model.plan):
        with pytest.raises(ValueError, match=r"^inputs: expected text, since the tokenizer has no chat template, got"):
            call(ASKED)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(inputs=ASKED, chat="plain"), "chat: expected 'template' or 'transcript', got 'plain'"),
        (dict(inputs=[ASKED, "hi"]), "inputs: expected either texts or chats, got a mixture of them"),
        (dict(inputs=["hi", ASKED]), "inputs: expected either texts or chats, got a mixture of them"),
        (dict(inputs=[ASKED, [{"content": "x"}]]), "inputs: expected messages with a role and a content, got dict"),
        (dict(inputs=[ASKED, []]), "inputs: expected messages with a role and a content, got none"),
        (
            dict(inputs="hi", prompts={"base": [{"role": "system", "content": "x"}]}),
            "prompts['base']: the chat template does not take this chat: System role not supported",
        ),
    ],
)
def test_wrong_chats(load, given, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        load(TEMPLATES["their own"]).generate(**given, max_new_tokens=1)


def test_whole_chats_that_models_read_in_different_ways(load):
    with pytest.raises(ValueError, match=r"^responses: expected some, since the models read different tokens before"):
        load(TEMPLATES["their own"]).score(BEGUN)
    assert load(TEMPLATES["one"]).score(BEGUN).counts.item() > 5


def test_tokenizers_of_their_own(llamas, tokenizer):
    """A mark that is one token to tuned alone is text to the others, which read it all the same."""
    marked = copy.deepcopy(tokenizer)
    marked.add_special_tokens({"additional_special_tokens": ["<im>"]})
    marked.chat_template = template = CHATML.replace("<turn>", "<im>")
    large = copy.deepcopy(tokenizer)
    large.chat_template = INST
    model = EmulatedModel(*llamas, {"large": large, "tuned": marked, "base": tokenizer})
    tuned = by_template(marked, None, ASKED)
    text = marked.apply_chat_template(ASKED, tokenize=False, add_generation_prompt=True)
    assert marked.convert_tokens_to_ids("<im>") in tuned
    base = tokenizer(text, add_special_tokens=False).input_ids
    assert read(model, ASKED) == each(by_template(tokenizer, INST, ASKED), tuned, base)
    said = tokenizer("User: hi\nAssistant:\n").input_ids
    assert read(model, ASKED, chat="transcript") == each(by_template(tokenizer, INST, ASKED), tuned, said)
    model = EmulatedModel(*llamas, {"large": tokenizer, "tuned": marked, "base": large})
    marked.chat_template = None
    assert read(model, ASKED)["base"] == [by_template(tokenizer, INST, ASKED)]
    assert template not in (large.chat_template, tokenizer.chat_template)
