"""`--chat-template`: each model reads its own form of a prompt, at every command, and a plain loop gives the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from python_tests.cli.conftest import WORDS
from python_tests.helpers.naive import load, naive, up_scaled

NEW = 5
SEEN = "{% for m in messages %}see {{ m.content }} {% endfor %}there"
TOLD = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + SEEN
SAID = "{% for m in messages %}it {{ m.content }}{% endfor %} was"
PLAIN = "User : {} Assistant :"


@pytest.fixture(scope="module")
def trios(folders, tmp_path_factory):
    """trios(large's, tuned's and base's template) -> options naming the models, and their folder."""
    made = {}

    def options(*templates):
        if templates not in made:
            made[templates] = root = tmp_path_factory.mktemp("templates")
            for folder, template in zip(map(Path, folders[1::2]), templates, strict=True):
                shutil.copytree(folder, root / folder.name)
                if template is not None:
                    (root / folder.name / "chat_template.jinja").write_text(template)
        root = made[templates]
        return [part for name in ("large", "tuned", "base") for part in (f"--{name}", root / name)], root

    return options


def answered(root, *texts):
    """The text that a plain loop over the three models puts behind what each of them reads."""
    tokenizer = AutoTokenizer.from_pretrained(root / "large")
    models = load(root, ("large", "tuned", "base"))
    ids = [tokenizer(text).input_ids for text in texts]
    new = naive(models, lambda _, z: up_scaled(1.0)(*z), ids, NEW, len(WORDS), (1,))
    return tokenizer.decode(new, skip_special_tokens=True)


READ = {  # templates, option, and what each model reads of "the cat"
    "its own": ((SAID, SEEN, TOLD), (), ("it the cat was", "see the cat there", "see the cat there")),
    "borrowed": ((None, SEEN, None), (), ("see the cat there",) * 3),
    "all": ((None, SEEN, None), ("all",), ("see the cat there",) * 3),
    "transcript": ((None, SEEN, None), ("transcript",), (PLAIN.format("the cat"), "see the cat there", None)),
    "transcripts": ((None, None, None), ("transcript",), (PLAIN.format("the cat"), None, None)),
    "tuned": ((None, SEEN, None), ("tuned",), ("the cat", "see the cat there", None)),
    "none": ((None, SEEN, None), ("none",), ("the cat", None, None)),
    "without": ((None, None, None), (), ("the cat", None, None)),
}


@pytest.mark.parametrize("case", READ)
def test_generate_and_report(eft, trios, tmp_path, case):
    templates, form, texts = READ[case]
    options, root = trios(*templates)
    wanted = answered(root, *(text or texts[0] for text in texts))
    more = ("--max-new-tokens", NEW, *(("--chat-template", *form) if form else ()))
    code, out, err = eft("generate", "--prompt", "the cat", *options, *more)
    assert (code, out.strip()) == (0, wanted.strip()), err
    code, out, _ = eft("report", "--prompt", "the cat", "--out", tmp_path / "page.html", "--json", *options, *more)
    (record,) = json.loads(out)["records"]
    told = [token["text"] for token in record["tokens"] if not token["special"]]
    assert (code, " ".join("".join(told).split())) == (0, wanted.strip())


def test_chat(eft, trios):
    options, root = trios(None, SEEN, None)
    more = ("--max-new-tokens", NEW, "--chat-template", "transcript")
    first = answered(root, *(READ["transcript"][2][i] or PLAIN.format("the cat") for i in range(3))).strip()
    code, out, _ = eft("chat", *options, *more, "--json", stdin="the cat\nit ran\n")
    lines = [json.loads(line)["text"] for line in out.splitlines()]
    assert code == 0
    assert lines[0] == first
    plain = f"User : the cat Assistant : {first} User : it ran Assistant :"
    assert lines[1] == answered(root, plain, f"see the cat see {first} see it ran there", plain).strip()


@pytest.mark.parametrize("template", [(), ("--chat-template", "transcript")], ids=["default", "transcript"])
def test_scores_of_chats(eft, trios, tmp_path, template):
    """A chat as messages, as a prompt, and a prompt that is its user's only message."""
    options, root = trios(None, SEEN, None)
    ask, say = {"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on a mat"}
    forms = [{"messages": [ask, say]}, {"prompt": [ask], "response": "sat on a mat"}]
    forms += [{"prompt": "the cat", "response": "sat on a mat"}]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(form) + "\n" for form in forms))
    code, out, _ = eft("score", file, "--json", *options, *template)
    results = json.loads(out)["results"]
    assert code == 0
    assert [result["tokens"] for result in results] == [4, 4, 4]
    tokenizer = AutoTokenizer.from_pretrained(root / "large")
    seen, plain = "see the cat there", PLAIN.format("the cat")
    for name, text in zip(("large", "tuned", "base"), (plain, seen, plain) if template else (seen,) * 3, strict=True):
        ids = torch.tensor([tokenizer(f"{text} sat on a mat").input_ids])
        with torch.no_grad():
            logits = load(root, (name,))[0](ids).logits[0, -5:-1].double()
        wanted = logits.log_softmax(-1).gather(1, ids[0, -4:, None]).sum().item()
        assert [result["logprobs"][name] for result in results] == pytest.approx([wanted] * 3, abs=1e-4)
    out = tmp_path / "scores.jsonl"
    assert eft("score", file, "--tokens", "--out", out, *options, *template)[0] == 0
    shown = [json.loads(line)["record"]["prompt"] for line in out.read_text().splitlines()]
    assert shown == ["User: the cat\nAssistant:"] * 2 + ["the cat"]


WRONG = {
    '{"messages": []}': "key 'messages': expected messages, got an empty list",
    '{"messages": [{"role": "user", "content": "a"}]}': "key 'messages': expected the assistant's message last",
    '{"messages": [{"role": "assistant", "content": "a"}]}': "key 'messages': expected the assistant's message last",
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}': "got an empty one",
    '{"messages": [{"role": "user"}]}': "key 'messages[0].content': expected a text, got none",
    '{"prompt": [{"content": "a"}], "response": "b"}': "key 'prompt[0].role': expected a text, got none",
    '{"prompt": [], "response": "b"}': "key 'prompt': expected text or messages, got an empty list",
    '{"prompt": 3, "response": "b"}': "key 'prompt': expected text, got int",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_chats_are_named(eft, folders, tmp_path, line):
    file = tmp_path / "wrong.jsonl"
    file.write_text(line + "\n")
    code, out, err = eft("score", file, *folders)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"eft: {file}, line 1")
    assert WRONG[line] in err


def test_a_system_message_without_a_place_is_said_once(eft, trios, tmp_path):
    options, _ = trios(SEEN, SEEN, TOLD)
    chat = [{"role": role, "content": text} for role, text in (("system", "it ran"), ("user", "the cat"))]
    file = tmp_path / "told.jsonl"
    file.write_text((json.dumps({"prompt": chat, "response": "sat"}) + "\n") * 3)
    code, _, err = eft("score", file, *options, "--batch-size", 1)
    said = [line for line in err.splitlines() if not line.startswith("loading weights")]
    line = "eft: warning: base: the chat template takes no system message, so that the first user's text begins with it"
    assert (code, said) == (0, [line])


def test_a_packed_trio_reads_as_its_parts(eft, trios, tmp_path):
    options, root = trios(SAID, SEEN, TOLD)
    assert eft("pack", *options, "-o", tmp_path / "trio")[0] == 0
    wanted = answered(root, *READ["its own"][2]).strip()
    code, out, _ = eft("generate", "--large", tmp_path / "trio", "--prompt", "the cat", "--max-new-tokens", NEW)
    assert (code, out.strip()) == (0, wanted)


def test_what_has_no_template(eft, folders):
    for form in ("all", "tuned"):
        code, out, err = eft("generate", "--prompt", "the cat", *folders, "--chat-template", form)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"eft: --chat-template {form}: ")
