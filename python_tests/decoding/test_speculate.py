"""Rounds at lag 0, on tables: greedy tokens, budgets, ends, rows that leave, sources, seeds, and static caches."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel, TokenSource
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import InvalidRow, Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.speculative.draft_length import Adaptive, Fixed
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.methods import Plain, UpScale, Weighted
from eft_ext.ops import fused_mix
from python_tests.helpers.tables import END, TableModel, tables

EFT = [1.0, 1.0, -1.0]
GREEDY = {"temperature": 0.0}
VOCAB = 8
PROMPTS = torch.tensor([[1, 2, 3], [5, 4, 3], [7, 7, 7], [0, 0, 6]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]])


def run(
    k, tables_=None, models=None, sampler=None, method=None, options=None, budgets=None, prompts=(PROMPTS, MASK),
    seeds=None, ends=(), hear=None, **drafting,
):  # fmt: skip
    """New tokens and sources of each row, and statistics; `hear` is called with the engine and tokens after a step."""
    tables_ = tables(3, VOCAB, seed=4) if tables_ is None else tables_
    models = models or [TableModel(table, capacity=200) for table in tables_]
    rows = len(prompts[0])
    budgets, seeds = budgets or [30] * rows, range(rows) if seeds is None else seeds
    if sampler is None:
        sampler = Sampler(Mixture(method or UpScale(1.0), rows), options or {}, **{"draft_model": 1, **drafting})
    schedule, most = (Fixed(k), k) if isinstance(k, int) else (k, 16)
    engine = SpeculativeEngine(models, sampler, list(ends), schedule=schedule, max_draft_tokens=most)
    engine.start([Request(i, seeds[i], budgets[i]) for i in range(rows)], [prompts] * len(models))
    tokens, sources, ended = [[] for _ in range(rows)], [[] for _ in range(rows)], [False] * rows
    for outputs in engine.run():
        assert outputs, "an empty round"
        for row, token, last, source in outputs:
            assert not ended[row], "a row went on behind its end"
            tokens[row].append(token)
            sources[row].append(source)
            ended[row] = last
        if hear is not None:
            hear(engine, tokens)
    assert all(ended) or hear is not None
    return tokens, sources, engine.statistics


def test_without_drafts_it_is_the_ordinary_loop():
    tokens, sources, _ = run(0, ends=[END])
    models = tables(3, VOCAB, seed=4)
    for row, found in enumerate(tokens):
        held = PROMPTS[row].tolist()
        for position, token in enumerate(found):
            logits = [table[held[-2], held[-1]][None] for table in models]
            want = fused_mix(logits, EFT, seed=torch.tensor([row]), position=position)
            assert token == int(want)
            held.append(token)
        assert set(sources[row]) == {TokenSource.step}
        assert found[-1] == END or len(found) == 30
        assert END not in found[:-1]


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_greedy_tokens_do_not_depend_on_drafts(k):
    want, _, _ = run(0, options=GREEDY, ends=[END])
    for drafting in ({}, {"temperature": 1.0}, {"temperature": 3.0}):
        got, sources, _ = run(k, options=GREEDY, ends=[END], draft_options=drafting)
        assert got == want
        for how in sources:
            assert how[0] is TokenSource.step  # the prompts' own logits
            assert TokenSource.step not in how[1:-1]  # the last of a budget leaves no room for drafts


def test_a_draft_model_that_is_the_mixture_changes_no_token():
    """p = q: sampled tokens are those of the ordinary loop too, all of them accepted."""
    model = tables(1, VOCAB, seed=9)
    how = dict(method=Plain(), options={"temperature": 1.3, "top_k": 6}, draft_model=0)
    want, _, _ = run(0, model, **how)
    got, sources, statistics = run(4, model, **how)
    assert got == want
    assert statistics.acceptance == 1
    assert all(TokenSource.resampled not in own for own in sources)
    assert sources[0][:6] == [TokenSource.step, *[TokenSource.accepted] * 4, TokenSource.bonus]


def test_no_draft_is_accepted_where_supports_do_not_meet():
    large = torch.zeros(VOCAB, VOCAB, VOCAB)
    large[..., ::2] = -torch.inf
    draft = torch.zeros(VOCAB, VOCAB, VOCAB)
    draft[..., 1::2] = -torch.inf

    class Alone(Sampler):
        """The draft model counts only as the one that proposes."""

        def draw(self, logits, *rest):
            super().draw(logits[:1], *rest)

        def verify(self, drafts, logits, lengths, seeds, steps):
            return self._verified(drafts, logits[1][:, :-1], logits[:1], [1.0], lengths, seeds, steps)

    tokens, sources, statistics = run(3, [large, draft], sampler=Alone(Mixture(Plain(), 4), {}, draft_model=1))
    assert statistics.accepted == 0
    assert all(token % 2 for row in tokens for token in row)
    # the last of a row has no room for a draft and is an ordinary step
    assert {source for own in sources for source in own[1:-1]} == {TokenSource.resampled}


def test_budgets_and_ends_inside_a_draft():
    budgets = [1, 2, 7, 30]
    whole, _, _ = run(6, budgets=[40] * 4)
    got, sources, _ = run(6, budgets=budgets)
    assert [len(t) for t in got] == budgets
    for row, found in enumerate(got):
        assert len(sources[row]) == len(found)
        cut, _, _ = run(6, budgets=[40] * 4, ends=[whole[row][3]])
        at = whole[row].index(whole[row][3])
        assert cut[row] == whole[row][: at + 1]


def test_a_row_may_be_ended_for_other_reasons():
    """By the caller, who cuts what the round has brought beyond: at the same length, or at one for each row."""
    whole, _, _ = run(4, budgets=[40] * 4)
    for lengths in ([11] * 4, [5, 23, 11, 1]):
        seen = []

        def cut(engine, tokens, lengths=lengths, seen=seen):
            done = [row for row in range(4) if len(tokens[row]) >= lengths[row]]
            engine.end(done)
            assert engine.free == len(done)
            seen[:] = [own[:n] for own, n in zip(tokens, lengths, strict=True)]
            assert all(len(own) < n + 5 for own, n in zip(tokens, lengths, strict=True)), "it went on behind its end"

        run(4, budgets=[40] * 4, hear=cut)
        assert seen == [row[:n] for row, n in zip(whole, lengths, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.2, 0.0])
def test_rows_do_not_see_each_other(temperature):
    """Alone, or in a batch that others leave and that stands in another order: the same tokens."""
    budgets, betas = [25, 9, 17, 30], torch.tensor([1.0, 0.7, 1.2, 0.0])
    options = {"temperature": temperature, "top_p": 0.95}
    whole, _, _ = run(3, method=UpScale(betas), options=options, ends=[END], budgets=budgets)
    order = [2, 0, 3, 1]
    turned, _, _ = run(
        3, method=UpScale(betas[order]), options=options, ends=[END], budgets=[budgets[row] for row in order],
        prompts=(PROMPTS[order], MASK[order]), seeds=order,
    )  # fmt: skip
    assert turned == [whole[row] for row in order]
    for row in range(4):
        prompt = PROMPTS[row][MASK[row] == 1][None]
        alone, _, _ = run(
            3,
            method=UpScale(float(betas[row])),
            options=options,
            ends=[END],
            budgets=[budgets[row]],
            prompts=(prompt, None),
            seeds=[row],
        )
        assert alone == [whole[row]]


def test_seeds_decide():
    first, again, other = run(3), run(3), run(3, seeds=range(100, 104))
    assert first[:2] == again[:2]
    assert first[0] != other[0]


def test_statistics_add_up():
    tokens, sources, statistics = run(4, budgets=[29] * 4)
    assert statistics.emitted == sum(map(len, tokens)) == 4 * 29
    counted = [sum(source is kind for own in sources for source in own) for kind in TokenSource]
    assert statistics.accepted == counted[TokenSource.accepted]
    assert statistics.drafted == counted[TokenSource.accepted] + counted[TokenSource.resampled]
    assert (
        statistics.rounds == counted[TokenSource.resampled] + counted[TokenSource.bonus] + counted[TokenSource.step] - 4
    )
    assert 0 < statistics.acceptance < 1


def test_an_invalid_row_is_named():
    models = tables(3, VOCAB, seed=4)
    tokens, _, _ = run(0, models, budgets=[12] * 4)
    models[2][tokens[2][4], tokens[2][5]] = torch.nan
    for k in (0, 3):
        with pytest.raises(InvalidRow, match=r"^row \d, new token \d+: no token can be drawn"):
            run(k, models, budgets=[60] * 4)


@pytest.mark.parametrize("options", [GREEDY, {"temperature": 0.8, "top_p": 0.95}])
def test_stock_models(family, model_of, ragged, options):
    """Greedy: token for token what the ordinary loop gives. Sampled: a row's tokens do not depend on its batch."""
    models = [model_of(family, seed) for seed in (0, 1, 0)]
    method = Weighted({"large": 0.6, "tuned": 0.6, "base": -0.2})
    rows = ragged[0].shape[0]

    def decode(k, prompts, seeds):
        own = [StaticCacheModel(model) for model in models]
        how = dict(method=method, options=options, budgets=[20] * len(seeds), prompts=prompts, seeds=seeds)
        return run(k, models=own, **how)[0]

    found = decode(4, ragged, range(rows))
    if options is GREEDY:
        assert found == decode(0, ragged, range(rows))
        return
    row = ragged[0][1][None]
    assert decode(4, (row, None), [1]) == found[1:2]


def test_auto_decodes():
    want, _, _ = run(0, options=GREEDY)
    got, _, _ = run(Adaptive(), options=GREEDY)
    assert got == want
