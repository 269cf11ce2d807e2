"""Seeded requests under the V2 runner: the tokens that the reference draws from the naive loop's logits."""

import pytest
import torch

from eft_ext import EmulatedModel
from eft_ext.demo import checkpoint_path
from eft_ext.ops import fused_mix
from python_tests.helpers.embedded_trio import parts
from python_tests.helpers.served_trio import ask, counted, mixture, prompts, sampling, tokens
from python_tests.helpers.vllm_interpreted import V2

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not V2, reason="V1 draws with generators of its own")]

# What the fused step covers.
DRAWS = (
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 8},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 12, "min_p": 0.02},
    {"temperature": 0.0},
)
BETAS = (None, 0.5, 2.5, 0.0, -0.75)
SEEDS = (0, 1, 12345, 2**40 + 7, 2**63 - 99, -(2**62))  # -1 is none, for vLLM


@pytest.fixture(scope="module")
def llm(start):
    """Few blocks, so that many requests preempt each other."""
    return start(checkpoint_path(), num_gpu_blocks_override=20, disable_log_stats=False)


def cases(count):
    """Prompts with sampling options of every kind, `count` of them."""
    at = prompts()
    return [
        (at[k % 8], BETAS[k % 5], {**DRAWS[(k * 3 + k // 8) % 8], "seed": SEEDS[k % 6] + k // 30}) for k in range(count)
    ]


def drawn(ids, found, beta, *, seed, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """The reference's tokens at the places of `found`, each after the text before it."""
    rows = mixture([*ids, *found], 1.0 if beta is None else beta)[len(ids) - 1 : -1].float()
    keys = torch.full((len(found),), seed, dtype=torch.int64)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    steps = torch.arange(len(found))
    return fused_mix([rows], [1.0], **options, seed=keys, position=steps, backend="reference").tolist()


def requests(given, **options):
    return [(ids, sampling(beta, **{"max_tokens": 16, **own, **options})) for ids, beta, own in given]


def test_all_in_one_batch(llm):
    given = cases(48)
    for (ids, beta, own), output in zip(given, ask(llm, requests(given)), strict=True):
        assert tokens(output) == drawn(ids, tokens(output), beta, **own), own


def test_after_preemption(llm):
    before = counted(llm, "num_preemptions")
    given = cases(16)
    outputs = ask(llm, requests(given, max_tokens=70, ignore_eos=True))
    assert counted(llm, "num_preemptions") > before
    for (ids, beta, own), output in zip(given, outputs, strict=True):
        assert tokens(output) == drawn(ids, tokens(output), beta, **own), own


OTHERS = {
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.3},
    "logprobs": {"temperature": 0.8, "logprobs": 3},
    "both nuclei": {"temperature": 0.8, "top_p": 0.9, "min_p": 0.1},
    "greedy": {},
    "no seed": {"temperature": 1.0, "top_k": 5},
    "prompt_logprobs": {"temperature": 1.0, "prompt_logprobs": 1},
    "a grammar": {"temperature": 1.0, "regex": "[a-z ]{4,12}"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_beside_any_other_request(llm, other):
    from vllm.sampling_params import StructuredOutputsParams

    options = dict(OTHERS[other])
    if regex := options.pop("regex", None):
        options["structured_outputs"] = StructuredOutputsParams(regex=regex)
    given = cases(5)
    neighbours = [(prompts()[k], sampling(0.5, **options)) for k in (2, 3)]
    outputs = ask(llm, [neighbours[0], *requests(given), neighbours[1]])
    for (ids, beta, own), output in zip(given, outputs[1:-1], strict=True):
        assert tokens(output) == drawn(ids, tokens(output), beta, **own), own
    if regex:
        assert all(set(output.outputs[0].text) <= set("abcdefghijklmnopqrstuvwxyz ") for output in outputs[::6])


def test_with_logprobs_or_alone(llm):
    given = cases(4)
    together = ask(llm, requests(given))
    apart = [ask(llm, [each])[0] for each in requests(given)]
    told = ask(llm, requests(given, logprobs=2, prompt_logprobs=1))
    assert [*map(tokens, together)] == [*map(tokens, apart)] == [*map(tokens, told)]


@pytest.mark.parametrize("own", [{"temperature": 0.8, "top_k": 30}, {"temperature": 1.0, "top_p": 0.9}], ids=str)
def test_as_our_own_generate(llm, own):
    """A key for each row is what vLLM's seed of one request is."""
    model = EmulatedModel.from_pretrained(checkpoint_path(), dtype=torch.float32)
    for ids, seed in zip(prompts()[:4], SEEDS, strict=False):
        sampled = {"do_sample": True, "top_k": 0, **own, "max_new_tokens": 16, "seed": torch.tensor([seed])}
        want = model.generate(torch.tensor([ids]), **sampled)[0, len(ids) :].tolist()
        assert tokens(ask(llm, [(ids, sampling(seed=seed, max_tokens=16, **own))])[0]) == want


def test_a_grammar_masks_the_draw(llm):
    """The reference draws from the mixture with the forbidden tokens left out."""
    from vllm.sampling_params import StructuredOutputsParams

    _, tokenizer = parts()
    words = [" the", " a"]
    text = [tokenizer.decode([token]) for token in range(1280)]
    firsts = [token for token in range(2, 1280) if text[token] and any(word.startswith(text[token]) for word in words)]
    assert len(firsts) > 2
    ids, beta, own = prompts()[5], 0.5, {"temperature": 1.0}
    grammar = StructuredOutputsParams(choice=words)
    for seed in range(6):
        found = tokens(ask(llm, [(ids, sampling(beta, seed=seed, structured_outputs=grammar, **own))])[0])
        row = torch.full((1, 1280), -torch.inf)
        row[0, firsts] = mixture(ids, beta)[-1, firsts].float()
        want = fused_mix([row], [1.0], seed=torch.tensor([seed]), position=0, backend="reference")
        assert found[0] == want.item()


def test_processors_of_others_see_the_request_itself(start):
    """Also those that change nothing of it, which leave it to the fused step."""
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

    seen = []

    class Watcher(LogitsProcessor):
        def __init__(self, *given):
            pass

        @classmethod
        def validate_params(cls, sampling_params):
            pass

        def add_request(self, req_idx, sampling_params):
            seen.append((sampling_params.temperature, sampling_params.top_k, sampling_params.seed))
            return False

        def apply(self, logits, *given):
            return logits

    engine = start(checkpoint_path(), logits_processors=[Watcher])
    given = cases(3)
    for (ids, beta, own), output in zip(given, ask(engine, requests(given)), strict=True):
        assert tokens(output) == drawn(ids, tokens(output), beta, **own), own
    assert sorted(seen) == sorted((own["temperature"], own.get("top_k", 0), own["seed"]) for *_, own in given)
