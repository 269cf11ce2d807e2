"""Options of one request beside a beta of its own: each result is the mixture's with that beta."""

import pytest
import torch

from eft_ext.demo import checkpoint_path
from python_tests.helpers.embedded_trio import parts
from python_tests.helpers.served_trio import EOS, ask, check_greedy, mixture, prompts, sampling, tokens
from python_tests.helpers.vllm_interpreted import V2

pytestmark = pytest.mark.slow
BETA = 0.5
EXACT = 2e-4  # between the engine's fp32 log-probabilities and those of float64


@pytest.fixture(scope="module")
def llm(start):
    return start(checkpoint_path())


def beside(llm, ids, params):
    """The output of a request among others with other betas, all in one batch."""
    others = [(prompt, sampling(beta, max_tokens=8)) for prompt, beta in zip(prompts(), (None, 2.5, 0.0), strict=False)]
    return ask(llm, [others[0], (ids, params), *others[1:]])[1]


@pytest.mark.parametrize("prompt", [3, 4])
def test_logprobs_are_the_mixtures(llm, prompt):
    """Raw ones: of the logits before temperature and the rest."""
    ids = prompts()[prompt]
    params = sampling(BETA, temperature=0.7, top_k=20, seed=3, logprobs=5, max_tokens=12)
    found = beside(llm, ids, params)
    want = mixture([*ids, *tokens(found)], BETA)[len(ids) - 1 :].log_softmax(-1)
    assert len(found.outputs[0].logprobs) == len(tokens(found))
    for row, told, token in zip(want, found.outputs[0].logprobs, tokens(found), strict=False):
        assert {*row.topk(5).indices.tolist(), token} == set(told)
        assert all(abs(each.logprob - row[k]) < EXACT for k, each in told.items())
        assert told[token].rank == 1 + int((row > row[token]).sum())


def check_prompt_logprobs(output, ids, beta):
    want = mixture(ids, beta).log_softmax(-1)
    assert output.prompt_logprobs[0] is None
    for row, told, token in zip(want, output.prompt_logprobs[1:], ids[1:], strict=False):
        assert {*row.topk(2).indices.tolist(), token} == set(told)
        assert all(abs(each.logprob - row[k]) < EXACT for k, each in told.items())


def test_prompt_logprobs(llm):
    """Under V1 too where the request has the checkpoint's own beta, whichever others are in the batch."""
    ids = prompts()[6]
    output = beside(llm, ids, sampling(prompt_logprobs=2))
    check_prompt_logprobs(output, ids, 1.0)
    check_greedy(ids, tokens(output), 1.0)


@pytest.mark.parametrize("beta", [0.5, -1.0])
def test_prompt_logprobs_with_a_beta_of_ones_own(llm, beta):
    ids = prompts()[6]
    if not V2:
        from vllm.exceptions import VLLMValidationError

        with pytest.raises(
            VLLMValidationError, match=r"^beta: expected none beside prompt_logprobs under vLLM's V1 [^\n]*$"
        ):
            beside(llm, ids, sampling(beta, prompt_logprobs=2))
        return
    output = beside(llm, ids, sampling(beta, prompt_logprobs=2))
    check_prompt_logprobs(output, ids, beta)
    check_greedy(ids, tokens(output), beta)


def ending(llm):
    """A prompt that the mixture ends by itself, and its tokens."""
    found = ask(llm, [(ids, sampling(BETA, max_tokens=64)) for ids in prompts()])
    return next((ids, output) for ids, output in zip(prompts(), found, strict=True) if tokens(output)[-1] == EOS)


def test_ends(llm):
    ids, whole = ending(llm)
    assert whole.outputs[0].finish_reason == "stop"
    check_greedy(ids, tokens(whole), BETA, count=64)
    cut = beside(llm, ids, sampling(BETA, max_tokens=3))
    assert cut.outputs[0].finish_reason == "length"
    assert tokens(cut) == tokens(whole)[:3]
    on = beside(llm, ids, sampling(BETA, max_tokens=len(tokens(whole)) + 4, ignore_eos=True))
    assert tokens(on)[: len(tokens(whole))] == tokens(whole)
    assert len(tokens(on)) == len(tokens(whole)) + 4


def test_a_stop_string(llm):
    ids, whole = ending(llm)
    text = whole.outputs[0].text
    stop = text[len(text) // 2 :][:3]
    found = beside(llm, ids, sampling(BETA, max_tokens=64, stop=[stop])).outputs[0]
    assert found.text == text[: text.index(stop)]
    assert found.stop_reason == stop
    assert list(found.token_ids) == tokens(whole)[: len(found.token_ids)]


def test_min_tokens(llm):
    ids, whole = ending(llm)
    least = len(tokens(whole)) + 3

    def without_end(row, step):
        row[EOS] = -torch.inf if step < least else row[EOS]
        return row

    found = tokens(beside(llm, ids, sampling(BETA, min_tokens=least, max_tokens=least + 8)))
    assert len(found) >= least
    check_greedy(ids, found, BETA, count=least + 8, change=without_end)


def test_logit_bias_and_bad_words(llm):
    ids = prompts()[0]
    second = int(mixture(ids, BETA)[-1].topk(2).indices[1])
    [point] = parts()[1](".", add_special_tokens=False).input_ids

    def biased(row, step):
        row[second] += 2.0
        return row

    def changed(row, step):
        row[point] = -torch.inf
        return biased(row, step)

    options = {"logit_bias": {second: 2.0}, "max_tokens": 32}
    found = tokens(beside(llm, ids, sampling(BETA, **options)))
    check_greedy(ids, found, BETA, count=32, change=biased)
    assert point in found
    found = tokens(beside(llm, ids, sampling(BETA, bad_words=["."], **options)))
    check_greedy(ids, found, BETA, count=32, change=changed)
    assert point not in found


def test_presence_penalty(llm):
    ids = prompts()[5]
    params = sampling(BETA, presence_penalty=1.5, max_tokens=24)
    found = tokens(beside(llm, ids, params))

    def penalised(row, step):
        row[list(set(found[:step]))] -= 1.5
        return row

    check_greedy(ids, found, BETA, change=penalised)


def test_several_samples_of_one_request(llm):
    """Each has the seed after the one before it, as vLLM has it."""
    ids = prompts()[2]
    options = {"temperature": 1.0, "max_tokens": 8}
    found = beside(llm, ids, sampling(BETA, n=3, seed=5, **options)).outputs
    single = [tokens(beside(llm, ids, sampling(BETA, seed=seed, **options))) for seed in (5, 6, 7)]
    assert [list(each.token_ids) for each in found] == single
    assert len(set(map(tuple, single))) > 1
