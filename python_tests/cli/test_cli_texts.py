"""Templates, special tokens and streamed words of tokenizers like Llama's: BOS before texts, "▁" for spaces."""

import json
from functools import wraps

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eft_ext._seam import added_text
from eft_ext.cli.printer import Printer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = [f"▁{word}" for word in "the cat sat on a mat and then it ran User: Assistant:".split()]  # noqa: SIM905
PIECES = ["<unk>", "<s>", "</s>", *BYTES, *WORDS, "▁", "s", ",", "日", "本", "\n", "\n\n", "##", "User", ":"]
BOS, EOS = 1, 2
DECODERS = {
    "llama": lambda: decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "metaspace": lambda: decoders.Metaspace(),
}
COMMANDS = {
    "generate": ("--prompt", "the cat", "--max-new-tokens", 3),
    "stream": ("--prompt", "the cat", "--max-new-tokens", 3, "--stream"),
    "chat": ("--max-new-tokens", 3),
    "score": ("pairs.jsonl",),
    "report": ("--prompt", "the cat", "--max-new-tokens", 3, "--out", "report.html"),
}
ANSWERED = "{{ '<s>' }}{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"


def spelled(decoder="llama"):
    inner = Tokenizer(models.Unigram([(piece, -1.0 - i % 7) for i, piece in enumerate(PIECES)], 0, byte_fallback=True))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), DECODERS[decoder]()
    inner.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """named(template) -> options naming three tiny models whose tokenizer has it."""
    root = tmp_path_factory.mktemp("spelled")
    folders = [root / name for name in ("large", "tuned", "base")]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
        ids = dict(vocab_size=len(PIECES), bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS)
        LlamaForCausalLM(LlamaConfig(**shape, **ids, initializer_range=0.5)).save_pretrained(folder)

    def options(template=None):
        tokenizer = spelled()
        tokenizer.chat_template = template
        for folder in folders:
            (folder / "chat_template.jinja").unlink(missing_ok=True)
            tokenizer.save_pretrained(folder)
        return [part for folder in folders for part in (f"--{folder.name}", str(folder))]

    return options


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files of data, to run in; templates may be applied in it already."""
    monkeypatch.chdir(tmp_path)
    for name, line in {
        "pairs": {"prompt": "the cat", "response": "sat on"},
        "texts": {"text": "<s>the cat sat"},
        "sft": {"prompt": "<s>the cat", "completion": " sat on"},
        "probes": {"prompt": "<s>the cat", "chosen": " ran"},
    }.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ raise_exception('Roles must alternate\\n user/assistant') }}", "Roles must alternate user/assistant"),
        pytest.param(
            "{{ messages[0]['content'] + 1 }}",
            'can only concatenate str (not "int") to str',
            marks=pytest.mark.slow,
        ),
    ],
    ids=["raises", "fails"],
)
def test_a_template_that_refuses_is_one_line(eft, named, here, command, template, complaint):
    name = "generate" if command == "stream" else command
    code, out, err = eft(name, *COMMANDS[command], *named(template), stdin="the cat\n")
    assert (code, out) == (2, "")
    assert (command == "chat") == err.endswith("\neft: 1 of 1 lines had no answer\n")
    said = err.removesuffix("eft: 1 of 1 lines had no answer\n")
    last = said.splitlines()[-1]
    begins = {"score": "eft: pairs.jsonl, line 1: inputs: ", "chat": "line 1 is skipped: "}
    assert last.startswith(begins.get(command, "eft: --prompt: "))
    assert last.endswith(f": the chat template does not take this chat: {complaint}")
    assert said.count("\n") == (2 if command == "score" else 3), "what the weights take, the settings, what is wrong"


def test_a_template_that_refuses_the_second_turn(eft, named):
    refusing = ANSWERED + "{% if messages | length > 1 %}{{ raise_exception('One turn only') }}{% endif %}"
    code, out, err = eft("chat", *named(refusing), "--max-new-tokens", 3, stdin="the cat\nit ran\n")
    assert (code, out.count("\n")) == (2, 1)
    *_, skipped, counted = err.splitlines()
    assert skipped.endswith("this chat: One turn only; /reset forgets the conversation")
    assert counted == "eft: 1 of 2 lines had no answer"


@pytest.fixture
def beginnings(monkeypatch):
    """The first two tokens of each text that a model reads."""
    found, forward = [], LlamaForCausalLM.forward

    @wraps(forward)
    def watched(self, *args, **kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        found.extend(row[:2] for row in ids.tolist() if len(row) > 1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    return found


TRAINED = ("--model", "large", "--data", "sft.jsonl", "--probes", "probes.jsonl", "--batch-size", 1)
READING = {
    **{f"template-{name}": (name.replace("stream", "generate"), *rest) for name, rest in COMMANDS.items()},
    "plain-score": ("score", "texts.jsonl"),
    "plain-generate": ("generate", "--prompt", "<s>the cat", "--max-new-tokens", 3, "--chat-template", "none"),
    "dynamics-decompose": ("dynamics", "decompose", "--lr", 1e-3, *TRAINED),
    "dynamics-track": ("dynamics", "track", "--out", "run", "--steps", 1, *TRAINED),
}


@pytest.mark.parametrize("which", READING)
def test_one_bos_where_template_and_tokenizer_both_put_one(eft, named, here, beginnings, which):
    command, *rest = READING[which]
    options = named(ANSWERED)
    if command == "dynamics":
        rest = [options[1] if part == "large" else part for part in rest]
    code, _, err = eft(command, *rest, *([] if command == "dynamics" else options), stdin="the cat\n")
    assert code == 0, err
    assert beginnings
    assert all(first == BOS and second != BOS for first, second in beginnings), beginnings


def streamed(tokenizer, tokens, stops=(), at_once=1):
    printer = Printer(tokenizer, stops)
    printer.put(torch.tensor([[BOS, 300]]))
    for start in range(0, len(tokens), at_once):
        printer.put(torch.tensor(tokens[start : start + at_once]))
    printer.end()
    return printer.text


@pytest.mark.parametrize("decoder", DECODERS)
def test_streamed_words_keep_their_spaces(decoder, capsys):
    tokenizer = spelled(decoder)
    the, comma, line, lines, euro = "▁the", ",", "\n", "\n\n", ("<0xE2>", "<0x82>", "<0xAC>")
    for pieces in (
        [the, "s", comma, "▁cat", line, "▁sat", "▁on", lines, the, line, line, "s", "▁", "▁cat"],
        [the, line, *euro, line, "▁cat", *euro, "▁ran", "日", "▁", "本", "▁sat", line],
        [*[the, line, "▁cat", "▁sat", lines] * 9, the, "▁", "▁", "s", line, "</s>", line, "▁cat", "▁"],
        [the, line, *euro, *euro, *euro, "<0x0A>", "<0x0A>", "▁cat", "<0x0A>", *euro, "▁sat"],
    ):
        tokens = tokenizer.convert_tokens_to_ids(pieces)
        whole = tokenizer.decode(tokens, skip_special_tokens=True)
        for at_once in (1, 3):
            assert streamed(tokenizer, tokens, at_once=at_once) == whole.lstrip()
            assert capsys.readouterr().out == whole.lstrip() + "\n"


def test_text_behind_characters_that_are_spelled_in_bytes():
    """Eight tokens before it begin within the first of them."""
    tokenizer = spelled()
    euro, the = (tokenizer.convert_tokens_to_ids(p) for p in (["<0xE2>", "<0x82>", "<0xAC>"], ["▁the"]))
    assert added_text(tokenizer, euro * 3, the) == " the"
    assert added_text(tokenizer, euro * 3, euro + the) == "€ the"
    assert added_text(tokenizer, the + euro[:2], euro[2:] + the) == "€ the"


def test_stop_strings_over_several_tokens():
    tokenizer = spelled()
    stops = ["\nUser:", "##"]
    for pieces, expected in (
        (["▁the", "\n", "User", ":", "▁cat"], "the"),
        (["\n", "User", ":", "▁cat"], ""),
        (["▁the", "\n", "User", "▁cat"], "the\nUser cat"),
        (["▁the", "\n", "User"], "the"),
        (["▁the", "\n"], "the"),
        (["▁the", "▁cat", "##", "s"], "the cat"),
    ):
        tokens = tokenizer.convert_tokens_to_ids(pieces)
        assert streamed(tokenizer, tokens, stops) == expected
        assert streamed(tokenizer, tokens, stops, at_once=2) == expected


def test_a_streamed_answer_is_the_answer(eft, named):
    options = ("--prompt", "the cat", "--max-new-tokens", 40, *named(), "--temperature", 3, "--seed", 5)
    code, out, _ = eft("generate", *options, "--json")
    (answer,) = json.loads(out)["results"]
    assert code == 0
    assert len(answer["text"].split()) > 3
    assert eft("generate", *options, "--stream")[1].rstrip() == answer["text"].strip()
