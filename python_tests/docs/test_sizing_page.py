"""The tables of docs/guides/sizing.md are those that examples/sizing.py prints, and its sentences say the same."""

import re

from eft_ext.hf.loading.memory import readable
from eft_ext.serving.sizing import parse_gpus, size
from python_tests.docs.pages import BLOCKS, COMMAND, PAGES
from python_tests.helpers.examples import printed as printed
from python_tests.helpers.published_configs import checkpoint, llama_8b, llama_70b

PAGE = "docs/guides/sizing.md"


def test_tables(printed, tmp_path):
    """All of them, in order."""
    text = "\n".join(printed("sizing", tmp_path))
    tables = [part.partition("\n\n")[2].strip() for part in re.split(r"^# ", text, flags=re.M)[1:]]
    assert [block.strip() for kind, block in BLOCKS[PAGE] if not COMMAND.search(block)] == tables
    commands = [line.removeprefix("# eft serve ") for line in text.splitlines() if line.startswith("# ")]
    assert all(f"`eft serve sizes/{command}`" in PAGES[PAGE] for command in commands)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama-70b", "qwen-32b"]


def test_sentences(tmp_path):
    page = " ".join(PAGES[PAGE].split())
    trio, gpus = checkpoint(tmp_path / "trio", llama_70b(), llama_8b(), llama_8b()), parse_gpus("8xH100")
    found = size(trio, gpus)
    large = found.rows[0]
    pair = 1 - large.weight_bytes / found.weight_bytes, 1 - large.kv_bytes / found.kv_bytes
    assert f"The small pair is {pair[0]:.0%} of the weights, but {pair[1]:.0%} of the cache".replace("%", " %") in page
    half = size(trio, gpus, kv_cache_dtype="fp8")
    assert round(half.tokens / found.tokens, 3) == 2  # "doubles the tokens"
    drafts = size(trio, gpus, speculate=3)
    four = size(trio, gpus, speculate=3, tensor_parallel=4)
    assert not four.tp  # "Four GPUs would no longer hold a request"
    logits = 3 * 1024 * 128256 * (3 * 2 + 8)
    plain = size(trio, gpus, tensor_parallel=8)
    assert logits > (drafts.reserve - plain.reserve) / 2  # "Most of the larger reserve are logits"
    fewer = size(trio, gpus, speculate=3, max_num_seqs=256)
    assert f"`--max-num-seqs 256` brings the reserve down to {readable(fewer.reserve)}." in page
    assert plain.total_tokens > found.total_tokens  # "one replica with more tokens"
