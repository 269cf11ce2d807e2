"""`eft chat` as a user meets it."""

import json


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
    import shutil

    large = tmp_path / "large"
    shutil.copytree(folders[1], large)
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    (large / "chat_template.jinja").write_text(template)
    plain = eft("generate", "--prompt", "the cat", *folders, "--max-new-tokens", 6)[1]
    options = ("--large", large, *folders[2:], "--max-new-tokens", 6)
    assert eft("generate", "--prompt", "the cat", *options)[1] == plain, "this template adds nothing"
    assert eft("generate", "--prompt", "the cat", *options, "--chat-template", "tuned")[1] == plain
    assert eft("chat", *options, stdin="the cat\n")[1] == plain


def test_stop_strings_are_not_printed(capsys, folders):
    from transformers import AutoTokenizer

    from eft_ext.cli.printer import Printer

    printer = Printer(AutoTokenizer.from_pretrained(folders[1]), stops=["\nUser:", "##"])
    for piece in (" well", "\nUs", "ual#", "x\nUse", "r: hi", " more"):
        printer.on_finalized_text(piece)
    printer.on_finalized_text("", stream_end=True)
    assert printer.text == "well\nUsual#x"
    assert capsys.readouterr().out == "well\nUsual#x\n"
