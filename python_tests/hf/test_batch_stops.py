"""Stop strings and other criteria in the batch that is kept full: each row ends as it does alone."""

import pytest
import torch
from transformers import StoppingCriteria

from eft_ext.hf import EmulatedModel
from eft_ext.hf.runners import decode_plan
from python_tests.helpers.naive import naive
from python_tests.helpers.slow_params import slowly, slowly_but

NEW = 40
TIERS = slowly_but((None,), [None, "static", "async", "device_loop", "eager"])


@pytest.fixture(scope="module")
def exact(build, tokenizer):
    """A trio in float64, whose roundings no batch can turn into another token."""
    shapes = ((0, 16, 272), (1, 8, 264), (2, 8, 264))
    return EmulatedModel(*(build("llama", *shape).double() for shape in shapes), tokenizer)


@pytest.fixture(scope="module")
def prompts():
    draw = torch.Generator().manual_seed(3)
    return [torch.randint(40, 120, (1 + 5 * row % 13,), generator=draw).tolist() for row in range(11)]


@pytest.fixture(scope="module")
def free(exact, prompts):
    """Greedy tokens of a plain loop, which nothing ends."""
    models = [exact.large, exact.tuned, exact.base]
    return [naive(models, lambda step, z: z[0] + (z[1] - z[2]), [prompt] * 3, new=NEW) for prompt in prompts]


def until(tokenizer, prompt, tokens, stops):
    """The tokens up to the first whose text completes a stop string, which may begin in the prompt."""
    for n in range(1, len(tokens) + 1):
        text, before = tokenizer.decode(prompt + tokens[:n]), tokenizer.decode(prompt + tokens[: n - 1])
        if any(text.count(stop) > before.count(stop) for stop in stops):
            return tokens[:n]
    return tokens


def spanning(tokenizer, tokens, n):
    """Strings of `n` letters each, which rows' texts have, and that single tokens complete."""
    texts = [tokenizer.decode(row) for row in tokens]
    runs = [text[at : at + n] for text in texts for at in range(5, len(text) - n)]
    return [run for run in runs if run.isascii() and run.isprintable()]


@pytest.mark.parametrize("tier", TIERS, ids=str)
@pytest.mark.parametrize("batch_size", [3, *slowly(1, 11)])
def test_stop_strings(exact, prompts, free, tokenizer, tier, batch_size):
    stops = [*spanning(tokenizer, free, 2)[:2], *spanning(tokenizer, free[4:], 1)[:2]]
    want = [until(tokenizer, prompt, row, stops) for prompt, row in zip(prompts, free, strict=True)]
    assert len({len(row) for row in want}) > 3, "rows end at several places"
    options = {"max_new_tokens": NEW, "eos_token_id": [999], "stop_strings": stops, "tier": tier}
    got = exact.generate_batch(prompts, batch_size=batch_size, **options)
    assert got == want
    for row in (0, 4, 7):
        alone = exact.generate([prompts[row]], **options)
        assert alone[0, len(prompts[row]) :].tolist() == got[row]


def test_they_end_beside_lengths_and_ends_of_text(exact, prompts, free, tokenizer):
    stops, ends = spanning(tokenizer, free, 1)[:1], [free[1][6], free[5][9]]
    want = []
    for prompt, row in zip(prompts, free, strict=True):
        end = next((at + 1 for at, token in enumerate(row[:15]) if token in ends), 15)
        want.append(until(tokenizer, prompt, row[:end], stops))
    got = exact.generate_batch(prompts, batch_size=4, max_new_tokens=15, eos_token_id=ends, stop_strings=stops)
    assert got == want


def test_rows_are_run_together(exact, prompts, shapes_read):
    with shapes_read(exact.large) as shapes:
        exact.generate_batch(prompts, batch_size=4, max_new_tokens=5, eos_token_id=[999], stop_strings=["never said"])
    assert (4, 1) in shapes


class AtTokens(StoppingCriteria):
    """Ends a row after so many tokens, which it counts, and looks at nobody else's text."""

    def __init__(self, tokens):
        self.left, self.text = tokens, []

    def __call__(self, input_ids, scores, **kwargs):
        assert scores is None
        assert input_ids.shape[0] == 1
        row = input_ids[0].tolist()
        assert not self.text or row[:-1] == self.text
        self.text = row
        self.left -= 1
        return torch.tensor([self.left == 0])


@pytest.mark.parametrize("options", [{}, {"tier": "eager"}, {"repetition_penalty": 1.0001}], ids=str)
def test_criteria_that_remember(exact, prompts, options):
    """Each row has its own copy, with its own text; also where rows go one by one."""
    options = {"max_new_tokens": 9, "eos_token_id": [999], **options}
    whole = exact.generate_batch(prompts, batch_size=3, **options)
    got = exact.generate_batch(prompts, batch_size=3, stopping_criteria=[AtTokens(4)], **options)
    assert got == [row[:4] for row in whole]


def test_steps_that_are_ahead_bring_nothing_more(exact, prompts, free, tokenizer, monkeypatch):
    """A host that lags behind its device throws them away."""
    monkeypatch.setattr("eft_ext.hf.generation.run.lag_of", lambda plan, device: decode_plan.LAG)
    stops = spanning(tokenizer, free, 1)[:1]
    want = [until(tokenizer, prompt, row, stops) for prompt, row in zip(prompts, free, strict=True)]
    options = {"max_new_tokens": NEW, "eos_token_id": [999], "stop_strings": stops}
    assert exact.generate_batch(prompts, batch_size=4, **options) == want


def test_sampled_rows_end_as_they_do_alone(exact, prompts, tokenizer):
    options = {"max_new_tokens": 20, "eos_token_id": [999], "do_sample": True, "stop_strings": ["e", "ab", "7"]}
    seeds = list(range(50, 61))
    got = exact.generate_batch(prompts, batch_size=3, seed=seeds, **options)
    assert min(map(len, got)) < 20
    for row, seed in enumerate(seeds):
        alone = exact.generate([prompts[row]], seed=[seed], **options)
        assert alone[0, len(prompts[row]) :].tolist() == got[row]
