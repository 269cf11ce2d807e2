"""EmulatedModel.score against whole logits, for five families, padding, pieces, prompts and responses."""

import math
from functools import wraps

import pytest
import torch

from eft_ext import EmulatedModel, fused_score_mix, reference
from eft_ext.methods import Guidance, UpScale
from python_tests.helpers.naive import padded
from python_tests.hf.conftest import EOS, PAD

ROWS = [[5, 9, 40, 41, 7, 30, 22, 8, 11], [50, 51, 52], [9, 9, 9, 60, 61]]


@torch.no_grad()
def naive(models, rows, weights=(1.0, 1.0, -1.0)):
    """Every row alone, all logits at once, the float64 reference."""
    found = []
    for row in rows:
        logits = [model(torch.tensor([row])).logits[0, :-1] for model in models]
        found.append(
            reference.score(logits, list(weights), torch.tensor(row[1:]), compared=1, vocab_size=264, num_changed=2)
        )
    return found


def assert_rows_agree(got, want, places=None):
    for b, expected in enumerate(want):
        length = expected.status.shape[0] if places is None else places[b]
        assert (got.tokens.status[b, :-length] == 2).all()
        for name in ("logprobs", "entropy", "tv", "kl", "log1m_max", "lse"):
            a, e = getattr(got.tokens, name)[b, -length:], getattr(expected, name)[-length:]
            torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(got.tokens.argmax[b, -length:], expected.argmax[-length:])
        assert torch.equal(got.tokens.rank[b, -length:], expected.rank[-length:])


@pytest.mark.parametrize("positions", [None, 1, 3])
def test_ragged_texts_of_every_family(trio, positions):
    ids, mask = padded(ROWS)
    model = EmulatedModel(*trio)
    got = model.score(ids, attention_mask=mask, positions=positions)
    want = naive(trio, ROWS)
    assert_rows_agree(got, want)
    assert got.counts.tolist() == [8, 2, 4]
    assert got.ids[1].tolist() == [-100] * 6 + [51, 52]
    sums = torch.stack([w.logprobs.sum(0) for w in want])
    torch.testing.assert_close(got.logprobs, sums, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.perplexity, (-sums / got.counts[:, None]).exp(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.reward, sums[:, 1] - sums[:, 2], rtol=1e-3, atol=1e-3)
    again = model.score([row[1:] for row in ROWS[:1]])
    assert again.counts.tolist() == [7]


def test_only_responses_are_scored(llamas):
    prompts, responses = [row[:-2] for row in ROWS], [row[-2:] for row in ROWS]
    responses[0] = [*responses[0], EOS]
    whole = [p + r for p, r in zip(prompts, responses, strict=True)]
    model = EmulatedModel(*llamas)
    for positions in (None, 2):
        got = model.score(prompts, responses, positions=positions)
        assert got.ids.tolist() == [[8, 11, EOS], [-100, 51, 52], [-100, 60, 61]]
        assert_rows_agree(got, naive(llamas, whole), places=[3, 2, 2])


def test_models_may_read_different_prompts(llamas):
    model = EmulatedModel(*llamas)
    got = model.score([[5, 9, 40]], [[7, 30]], prompts={"tuned": [[60, 61, 62, 63, 64]]})
    plain = model.score([[5, 9, 40]], [[7, 30]])
    moved = model.score([[60, 61, 62, 63, 64]], [[7, 30]])
    torch.testing.assert_close(got.tokens.logprobs[..., [0, 2]], plain.tokens.logprobs[..., [0, 2]])
    torch.testing.assert_close(got.tokens.logprobs[..., 1], moved.tokens.logprobs[..., 1], rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match="^responses: expected some, since the models read different tokens before them, got None"
    ):
        model.score([[5, 9, 40]], prompts={"tuned": [[60, 61]]})


def test_weights_of_the_model_the_call_and_the_row(llamas):
    up = EmulatedModel(*llamas, scale=1.5).score(ROWS[0])
    assert_rows_agree(up, naive(llamas, ROWS[:1], (1.5, 1.0, -1.5)))
    model = EmulatedModel(*llamas)
    each = model.score(ROWS, beta=[0.0, 0.5, 2.0])
    for b, beta in enumerate((0.0, 0.5, 2.0)):
        alone = model.score(ROWS[b], beta=beta)
        length = alone.ids.shape[1]
        torch.testing.assert_close(each.logprobs[b], alone.logprobs[0], rtol=1e-4, atol=1e-4)
        assert torch.equal(each.ids[b, -length:], alone.ids[0])
    torch.testing.assert_close(each.tokens.logprobs[0, :, 3], each.tokens.logprobs[0, :, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("positions", [None, 1, 3])
def test_the_step_is_the_number_of_scored_tokens(llamas, positions):
    """Also in a ragged batch read in pieces; one function has a value for each row."""
    prompts, responses = [[5, 9], [40, 41, 42]], [[7, 8, 9, 10, 11], [12, 13]]
    method = UpScale(lambda step: [1.0 / (1 + step), 0.3 * step])
    got = EmulatedModel(*llamas).score(prompts, responses, method=method, positions=positions, candidates=2)
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        with torch.no_grad():
            logits = [model(torch.tensor([prompt + response])).logits[0] for model in llamas]
        for t, token in enumerate(response):
            beta, at = (1.0 / (1 + t), 0.3 * t)[b], len(prompt) - 1 + t
            want = fused_score_mix([x[at : at + 1] for x in logits], [1.0, beta, -beta], torch.tensor([token]))
            here = t - len(response)
            torch.testing.assert_close(got.tokens.logprobs[b, here], want.logprobs[0], rtol=1e-4, atol=2e-5)
            listed = got.candidates.ids[b, here].tolist().index(int(want.argmax[0, 3]))
            top = got.candidates.logprobs[b, here, listed, 3]
            assert float(top) == pytest.approx(float(want.max_prob[0, 3].log()), rel=1e-4, abs=2e-5)


def test_guidance_is_scored_as_it_generates(llamas):
    """Without an unconditional prompt that model reads the last token of yours."""
    model = EmulatedModel(model=llamas[0], method=Guidance(1.5))
    out = model.generate([[5, 9, 40]], max_new_tokens=4, eos_token_id=[999])
    got = model.score([[5, 9, 40]], out[:, 3:])
    assert torch.equal(got.tokens.argmax[0, :, 2], out[0, 3:])
    assert got.compared == "conditional"
    with pytest.raises(ValueError, match="^responses: expected some, since unconditional does not read"):
        model.score([[5, 9, 40]])


@pytest.mark.parametrize("options", [{}, {"scale": 1.0, "conservative_top_p": 0.8}, {"beta": [0.5, 1.0, 1.5]}])
def test_candidates_are_what_every_distribution_says(llamas, options):
    model = EmulatedModel(*llamas)
    got = model.score(ROWS, candidates=3, num_top=2, positions=3, **options)
    ids, logprobs = got.candidates.ids, got.candidates.logprobs
    assert got.tokens.top_ids.shape[-1] == 2
    more = model.score(ROWS, num_top=3, **options)
    for b in range(3):
        for t in range(ids.shape[1]):
            there = [i for i in ids[b, t].tolist() if i >= 0]
            if got.tokens.status[b, t] == 2:
                assert not there
                continue
            assert sorted(there) == sorted(set(more.tokens.top_ids[b, t].flatten().tolist()))
            for place, token in enumerate(ids[b, t].tolist()):
                if token < 0:
                    assert (logprobs[b, t, place] == -math.inf).all()
                for d in range(4):
                    top = more.tokens.top_ids[b, t, d].tolist()
                    if token in top:
                        want = more.tokens.top_logprobs[b, t, d, top.index(token)]
                        torch.testing.assert_close(logprobs[b, t, place, d], want, rtol=1e-4, atol=1e-5)


def test_text_and_chats(llamas, tokenizer):
    model = EmulatedModel(*llamas, tokenizer)
    by_text = model.score(["ab", "xyz"], ["cde", "q<eos>"])
    ids = [tokenizer(text)["input_ids"] for text in ("ab", "xyz")]
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("cde", "q<eos>")]
    assert answers[1][-1] == EOS
    torch.testing.assert_close(by_text.logprobs, model.score(ids, answers).logprobs)
    assert model.score("abc").counts.tolist() == [len(tokenizer("abc")["input_ids"]) - 1]
    one = model.score("ab", "cde")
    torch.testing.assert_close(one.logprobs[0], by_text.logprobs[0], rtol=1e-5, atol=1e-5)


def test_what_is_generated_greedily_ranks_first(llamas):
    model = EmulatedModel(*llamas)
    out = model.generate(torch.tensor([ROWS[0]]), max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=PAD)
    got = model.score([ROWS[0]], out[:, len(ROWS[0]) :])
    assert (got.tokens.rank[..., 3] == 0).all()
    assert torch.equal(got.tokens.argmax[0, :, 3], out[0, len(ROWS[0]) :])


WRONG = {
    "inputs: expected at least two tokens in row 1": lambda m: m.score([[3, 4], [5]]),
    "responses: expected 2, one for each prompt of large, got 1": lambda m: m.score([[3], [4]], [[5]]),
    "responses: expected at least one token in every row, got an empty row 1": lambda m: m.score([[3], [4]], [[5], []]),
    "responses: text needs a tokenizer": lambda m: m.score([[3]], "x"),
    "responses: expected text or token ids": lambda m: m.score([[3]], 7),
    "responses: expected texts or lists of token ids, got a mixture": lambda m: m.score([[3], [4]], [[5], "x"]),
    "positions: expected an integer of at least 1, got 0": lambda m: m.score([[3, 4]], positions=0),
    "nonsense: not an argument of score": lambda m: m.score([[3, 4]], nonsense=1),
    "large: token id 999 is outside": lambda m: m.score([[3, 999]]),
    "beta: expected a number or 1 values": lambda m: m.score([[3, 4]], beta=[1.0, 2.0]),
    "inputs: expected token ids, text": lambda m: m.score(),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_named(llamas, message):
    with pytest.raises((ValueError, TypeError), match=message):
        WRONG[message](EmulatedModel(*llamas))


def test_a_token_that_small_models_lack_is_an_error(llamas):
    """Large has 272 columns, the others 264: token 270 has no probability in the mixture."""
    with pytest.raises((RuntimeError, ValueError), match="270|no logit"):
        EmulatedModel(*llamas).score([[3, 270]])


def test_peak_memory_is_a_piece(llamas, monkeypatch):
    """No logits of more than `positions` columns leave a model."""
    seen = []

    def watched(forward):
        @wraps(forward)
        def call(*args, **kwargs):
            out = forward(*args, **kwargs)
            seen.append(out.logits.shape[1])
            return out

        return call

    for model in llamas:
        monkeypatch.setattr(model, "forward", watched(model.forward))
    EmulatedModel(*llamas).score([ROWS[0][:4]], [ROWS[0][4:]], positions=2)
    assert set(seen) == {2, 1}
