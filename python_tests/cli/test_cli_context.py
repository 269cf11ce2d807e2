"""Texts beyond what the models were made for, and texts that take a while: one line each, at every command."""

import json

import pytest
from transformers import AutoConfig

LINE = "eft: {}: 12 tokens for large, tuned and base, made for 8 positions"
WORDS = "the cat sat on a mat and then it ran off to"  # 12 tokens


@pytest.fixture(scope="module", autouse=True)
def made_for_8(folders):
    for folder in folders[1::2]:
        config = AutoConfig.from_pretrained(folder)
        config.max_position_embeddings = 8
        config.save_pretrained(folder)


@pytest.fixture(params=["generate", "stream", "chat", "score", "report"])
def command(request, eft, folders, tmp_path):
    """command(text, option...) -> exit code, stdout, the lines of stderr that are not about loading."""
    file = tmp_path / "texts.jsonl"
    answer = ("--max-new-tokens", "1", "--chat-template", "none")
    options = {
        "generate": ("generate", "--prompt", "-", *answer),
        "stream": ("generate", "--prompt", "-", "--stream", *answer),
        "chat": ("chat", *answer),
        "score": ("score", file),
        "report": ("report", "--out", tmp_path / "page.html", *answer, "--prompt"),
    }[request.param]

    def run(text, *more):
        file.write_text(json.dumps({"text": text}))
        own = (text,) if request.param == "report" else ()
        code, out, err = eft(*options, *own, *more, *folders, stdin=f"{text}\n")
        return code, out, [line for line in err.splitlines() if not line.startswith(("loading weights", "greedy, "))]

    run.options, run.file = options, file
    run.tokens = 16 if request.param == "chat" else 12  # of a transcript: User : ... Assistant :
    return run


def test_warned_of_or_refused(command):
    line = LINE.replace("12", str(command.tokens))
    code, out, err = command(WORDS)
    assert (code, err) == (0, [line.format("warning: inputs")])
    assert out
    code, out, err = command(WORDS, "--context", "refuse")
    assert (code, out) == (2, "")
    line = line.format("--prompt" if "--prompt" in command.options else "inputs")
    if "chat" in command.options:
        line = line.replace("eft: inputs", "line 1 is skipped")
        assert err.pop() == "eft: 1 of 1 lines had no answer"
    assert [each.replace(f"{command.file}, line 1: ", "") for each in err] == [line]
    assert command("the cat", "--context", "refuse")[0] == 0


def test_a_long_text_is_announced(command):
    code, _, err = command(f"{'cat ' * 5000}", "--context", "refuse")
    assert code == 2
    assert err[0].startswith("reading a text of 2")
    assert len(err) == 2 + ("chat" in command.options)


def test_another_word(eft):
    code, _, err = eft("generate", "--prompt", "x", "--context", "ignore")
    assert code == 2
    assert "'warn', 'refuse'" in err
