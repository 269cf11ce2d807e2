"""Greedy tokens of the engine are those of the naive loop, however the engine batches, caches and preempts."""

import itertools
import random

import pytest

from eft_ext.demo import checkpoint_path
from python_tests.helpers.embedded_trio import parts
from python_tests.helpers.served_trio import ask, check_greedy, counted, prompts, sampling, tokens

pytestmark = pytest.mark.slow
BETAS = (None, 0.0, 0.5, 1.0, 2.5, -0.75)
LONG = "Once there was a mayor who kept a lantern in the tower and a goat in the yard. " * 3


@pytest.fixture(scope="module")
def llm(start):
    """Twenty blocks: five texts of 128 tokens, so that running requests are preempted."""
    return start(checkpoint_path(), num_gpu_blocks_override=20, disable_log_stats=False)


def own(beta):
    return 1.0 if beta is None else beta


def test_prompts_and_betas_in_one_batch(llm):
    requests = list(itertools.product(prompts(), BETAS))
    outputs = ask(llm, [(ids, sampling(beta)) for ids, beta in requests])
    for (ids, beta), output in zip(requests, outputs, strict=True):
        check_greedy(ids, tokens(output), own(beta))
    assert len({tuple(tokens(output)) for output in outputs[: len(BETAS)]}) > 1, "beta changes nothing"


def test_a_prefix_is_shared_across_betas(llm):
    """The models' keys and values do not depend on beta."""
    llm.reset_prefix_cache()
    common = parts()[1](LONG).input_ids
    assert len(common) > 64
    requests = [([*common, *ids], beta) for ids in prompts()[:3] for beta in BETAS]
    for first, rest in ((0, 1), (1, len(requests))):
        outputs = ask(llm, [(ids, sampling(beta, max_tokens=12)) for ids, beta in requests[first:rest]])
        for (ids, beta), output in zip(requests[first:rest], outputs, strict=True):
            check_greedy(ids, tokens(output), own(beta), count=12)
            assert (output.num_cached_tokens >= 64) == (first > 0)


def test_preempted_requests_go_on(llm):
    llm.reset_prefix_cache()
    before = counted(llm, "num_preemptions")
    requests = [(ids, beta) for beta in (0.5, 1.0, 2.5) for ids in prompts()]
    options = {"max_tokens": 90, "ignore_eos": True}
    outputs = ask(llm, [(ids, sampling(beta, **options)) for ids, beta in requests])
    assert counted(llm, "num_preemptions") > before
    for (ids, beta), output in zip(requests, outputs, strict=True):
        found = tokens(output)
        assert len(found) == 90
        # Beyond an EOS the texts are no longer ones that anything was trained on, but still the mixture's likeliest.
        check_greedy(ids, found[: found.index(0) + 1] if 0 in found else found, beta, count=90)


def test_long_prompts_come_in_chunks(start):
    """16 tokens a step: prompts take several, beside others that write."""
    small = start(checkpoint_path(), max_num_batched_tokens=16, max_num_seqs=8, enable_prefix_caching=False)
    long = parts()[1](LONG).input_ids
    requests = [([*long[k:], *ids], beta) for k, (ids, beta) in enumerate(zip(prompts(), BETAS, strict=False))]
    outputs = ask(small, [(ids, sampling(beta)) for ids, beta in requests])
    for (ids, beta), output in zip(requests, outputs, strict=True):
        check_greedy(ids, tokens(output), own(beta))


@pytest.mark.parametrize("seed", [0, 1])
def test_requests_come_and_go_while_others_run(start, seed):
    """Rows move: under V1 a request's parameters have to move with them."""
    engine = start(checkpoint_path(), max_num_seqs=6).llm_engine
    draw, given, found, gone = random.Random(seed), {}, {}, set()
    while len(given) < 40 or engine.has_unfinished_requests():
        while len(given) < 40 and draw.random() < 0.6:
            name, ids, beta = str(len(given)), draw.choice(prompts()), draw.choice(BETAS)
            given[name] = (ids, beta, draw.randint(1, 24))
            engine.add_request(name, {"prompt_token_ids": ids}, sampling(beta, max_tokens=given[name][2]))
        if draw.random() < 0.15 and (running := sorted(given.keys() - found.keys() - gone)):
            gone.add(name := draw.choice(running))
            engine.abort_request([name])
        found |= {output.request_id: output for output in engine.step() if output.finished}
    for name, (ids, beta, count) in given.items():
        if name not in gone:
            check_greedy(ids, tokens(found[name]), own(beta), count=count)
    assert len(found) > 20
