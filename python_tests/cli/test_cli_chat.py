"""`eft chat` as a user meets it."""

import json
import os
import shutil

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from eft_ext.cli import main
from python_tests.cli.conftest import WORDS


def test_chat(eft, folders):
    options = (*folders, "--max-new-tokens", 6)
    code, out, err = eft("chat", *options, stdin="the cat\n/what\n/reset\nthe cat\n\n/exit\nit ran\n")
    first, second = out.splitlines()
    assert code == 0
    assert first == second, "forgotten in between"
    assert err.splitlines()[-1] == "forgotten"
    assert "/reset" in err
    _, out, _ = eft("chat", *options, "--json", stdin="the cat\nit ran\n")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat", "it ran"]
    assert lines[0]["text"] == first.strip()


def test_chat_reads_the_template(eft, folders, tmp_path):
    large = tmp_path / "large"
    shutil.copytree(folders[1], large)
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (large / "chat_template.jinja").write_text(template)
    plain = eft("generate", "--prompt", "the cat", *folders, "--max-new-tokens", 6)[1]
    options = ("--large", large, *folders[2:], "--max-new-tokens", 6)
    assert eft("generate", "--prompt", "the cat", *options)[1] == plain, "this template adds nothing"
    assert eft("generate", "--prompt", "the cat", *options, "--chat-template", "tuned")[1] == plain
    assert eft("chat", *options, stdin="the cat\n")[1] == plain


def a_table(folders, root):
    """A GPT-2 with a table of 16 positions."""
    shutil.copytree(folders[1], root)
    small = dict(n_embd=16, n_layer=1, n_head=2, n_positions=16, pad_token_id=0, bos_token_id=None, eos_token_id=None)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), **small)).save_pretrained(root)
    return "table of 16; /reset forgets the conversation"


def a_template(folders, root):
    """Takes one question alone."""
    shutil.copytree(folders[1], root)
    refuse = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}"
    (root / "chat_template.jinja").write_text(refuse + "{{ messages[0]['content'] }}")
    return "take this chat: one turn only; /reset forgets the conversation"


@pytest.mark.parametrize("model", [a_table, a_template])
@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_line_that_cannot_be_answered_ends_no_conversation(eft, folders, model, json_too, tmp_path):
    expected = model(folders, tmp_path / "model")
    options = ("chat", "--method", "plain", "--model", f"model={tmp_path / 'model'}", "--max-new-tokens", 4, *json_too)
    code, once, _ = eft(*options, stdin="the cat\n")
    assert (code, once.count("\n")) == (0, 1)
    code, out, err = eft(*options, stdin="the cat\nit ran off to see\n/reset\nthe cat\n")
    assert (code, out) == (2, once * 2)
    *_, skipped, forgotten, counted = err.splitlines()
    assert skipped.startswith("line 2 is skipped: ")
    assert skipped.endswith(expected)
    assert (forgotten, counted) == ("forgotten", "eft: 1 of 3 lines had no answer")


def test_an_option_that_does_not_fit_ends_it(eft, folders):
    code, out, err = eft("chat", *folders, "--negative-prompt", "no", stdin="the cat\nthe cat\n")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "eft: --negative-prompt: expected --method guidance beside it"


def test_stop_strings_are_not_printed(capsys, folders):
    from transformers import AutoTokenizer

    from eft_ext.cli.printer import Printer

    printer = Printer(AutoTokenizer.from_pretrained(folders[1]), stops=["\nUser:", "##"])
    for piece in (" well", "\nUs", "ual#", "x\nUse", "r: hi", " more"):
        printer.on_finalized_text(piece)
    printer.on_finalized_text("", stream_end=True)
    assert printer.text == "well\nUsual#x"
    assert capsys.readouterr().out == "well\nUsual#x\n"


@pytest.fixture
def piped(capsys, monkeypatch):
    """piped(content, *arguments) -> exit code, stdout, stderr of a command that reads bytes from a pipe."""

    def run(content, *arguments):
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        capsys.readouterr()
        with open(reading, encoding="utf-8") as pipe:
            monkeypatch.setattr("sys.stdin", pipe)
            code = main(list(map(str, arguments)))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_line_that_is_no_text_is_skipped(piped, folders, json_too):
    options = ("chat", *folders, "--max-new-tokens", 6, *json_too)
    code, plain, _ = piped(b"the cat\nit ran\n", *options)
    assert (code, plain.count("\n")) == (0, 2)
    content = b"the cat\n  a\xffb\xe2\x82\n\xc3\xa4 \xed\xa0\x80\nit ran\n"
    code, out, err = piped(content, *options)
    assert (code, out) == (2, plain)
    assert err.splitlines()[-3:] == [
        "line 2 is skipped: expected text, got a byte that is not UTF-8, 0xff, at character 4",
        "line 3 is skipped: expected text, got a byte that is not UTF-8, 0xed, at character 3",
        "eft: 2 of 4 lines had no answer",
    ]


def test_a_line_with_a_lone_surrogate_is_skipped(eft, folders):
    code, out, err = eft("chat", *folders, "--max-new-tokens", 6, stdin="a \ud800\nthe cat\n")
    assert (code, out.count("\n")) == (2, 1)
    assert err.splitlines()[-2] == "line 1 is skipped: expected text, got a lone surrogate, U+D800, at character 3"


def test_bytes_that_are_no_text_elsewhere(piped, eft, folders):
    said = "got a byte that is not UTF-8, 0xff, at character 2\n"
    code, _, err = piped(b"a\xff", "generate", "--prompt", "-", *folders)
    assert (code, err) == (2, f"eft: --prompt -: expected text on stdin, {said}")
    for command in ("generate", "report"):
        code, _, err = eft(command, "--prompt", "hi", "--prompt", "a\udcff", *folders)
        assert (code, err) == (2, f"eft: --prompt: expected text, {said}")
