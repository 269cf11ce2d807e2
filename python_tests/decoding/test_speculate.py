"""The speculative loop: greedy tokens, budgets, ends, rows that leave, marks, seeds, and models on static caches."""

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.speculative.draft_length import Adaptive, Fixed
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.speculate import speculate
from eft_ext.decoding.speculative.token_source import Statistics, TokenSource
from eft_ext.ops import fused_mix
from python_tests.decoding.tables import END, TableReader, tables

EFT = [1.0, 1.0, -1.0]
VOCAB = 8
PROMPTS = torch.tensor([[1, 2, 3], [5, 4, 3], [7, 7, 7], [0, 0, 6]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]])


def collect(rounds, rows):
    """New tokens and marks of each row."""
    tokens, marks, ended = [[] for _ in range(rows)], [[] for _ in range(rows)], [False] * rows
    for found in rounds:
        for row, new, how, end in zip(found.rows, found.tokens, found.marks, found.ended, strict=True):
            assert new, "an empty round"
            assert len(new) == len(how)
            assert not ended[row], "a row went on behind its end"
            tokens[row] += new
            marks[row] += how
            ended[row] = end
    assert all(ended)
    return tokens, marks


def run(k, models=None, readers=None, sampler=None, budgets=None, prompts=(PROMPTS, MASK), seeds=None, **options):
    models = models if models is not None else tables(3, VOCAB, seed=4)
    readers = readers if readers is not None else [TableReader(table, capacity=200) for table in models]
    rows = prompts[0].shape[0]
    return collect(
        speculate(
            readers,
            [prompts] * len(readers),
            sampler or Sampler(EFT),
            k if not isinstance(k, int) else Fixed(k),
            seeds=torch.arange(rows) if seeds is None else seeds,
            budgets=budgets or [30] * rows,
            **options,
        ),
        rows,
    )


def test_without_drafts_it_is_the_ordinary_loop():
    tokens, marks = run(0, ends=[END])
    models = tables(3, VOCAB, seed=4)
    for row, found in enumerate(tokens):
        held = PROMPTS[row].tolist()
        for position, token in enumerate(found):
            logits = [table[held[-2], held[-1]][None] for table in models]
            want = fused_mix(logits, EFT, seed=torch.tensor([row]), position=position)
            assert token == int(want)
            held.append(token)
        assert set(marks[row]) == {TokenSource.step}
        assert found[-1] == END or len(found) == 30
        assert END not in found[:-1]


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_greedy_tokens_do_not_depend_on_drafts(k):
    greedy = Sampler(EFT, {"temperature": 0.0})
    want, _ = run(0, sampler=greedy, ends=[END])
    for drafting in ({}, {"temperature": 1.0}, {"temperature": 3.0}):
        sampler = Sampler(EFT, {"temperature": 0.0}, draft_options=drafting)
        got, marks = run(k, sampler=sampler, ends=[END])
        assert got == want
        for how in marks:
            assert how[0] is TokenSource.step  # the prompts' own logits
            assert TokenSource.step not in how[1:-1]  # the last of a budget leaves no room for drafts


def test_a_draft_model_that_is_the_mixture_changes_no_token():
    """p = q: sampled tokens are those of the ordinary loop too, all of them accepted."""
    model = tables(1, VOCAB, seed=9)
    sampler = Sampler([1.0], {"temperature": 1.3, "top_k": 6}, draft=0)
    want, _ = run(0, models=model, sampler=sampler)
    statistics = Statistics()
    got, marks = run(4, models=model, sampler=sampler, statistics=statistics)
    assert got == want
    assert statistics.acceptance == 1
    assert all(TokenSource.resampled not in how for how in marks)
    assert [int(m) for m in marks[0][:6]] == [TokenSource.step, *[TokenSource.accepted] * 4, TokenSource.bonus]


def test_no_draft_stands_where_supports_do_not_meet():
    large = torch.zeros(VOCAB, VOCAB, VOCAB)
    large[..., ::2] = -torch.inf
    draft = torch.zeros(VOCAB, VOCAB, VOCAB)
    draft[..., 1::2] = -torch.inf
    # the draft model counts only as the one that proposes: weights of large alone
    statistics = Statistics()
    readers = [TableReader(large, 300)]
    readers.append(TableReader(draft, 300))

    class Alone(Sampler):
        def step(self, logits, seeds, positions):
            return fused_mix(logits[:1], [1.0], seed=seeds, position=positions)

        def keep(self, rows):
            return self

        def verify(self, drafts, logits, lengths, seeds, at):
            from eft_ext.ops import fused_verify

            return fused_verify(drafts, logits[1][:, :-1], logits[:1], [1.0], lengths=lengths, seed=seeds, position=at)

    tokens, marks = run(3, readers=readers, sampler=Alone([1.0]), statistics=statistics)
    assert statistics.accepted == 0
    assert all(token % 2 for row in tokens for token in row)
    # the last of a row has no room for a draft and is an ordinary step
    assert {mark for how in marks for mark in how[1:-1]} == {TokenSource.resampled}


def test_budgets_and_ends_inside_a_draft():
    budgets = [1, 2, 7, 30]
    whole, _ = run(6, budgets=[40] * 4)
    got, marks = run(6, budgets=budgets)
    assert [len(t) for t in got] == budgets
    for row, found in enumerate(got):
        assert len(marks[row]) == len(found)
        cut, _ = run(6, budgets=[40] * 4, ends=[whole[row][3]])
        at = whole[row].index(whole[row][3])
        assert cut[row] == whole[row][: at + 1]


def test_a_row_may_be_cut_for_other_reasons():
    whole, _ = run(4, budgets=[40] * 4)
    seen = {row: [] for row in range(4)}

    def cut(row, new):
        seen[row] += new
        return None if len(seen[row]) < 11 else len(new) - (len(seen[row]) - 11)

    got, _ = run(4, budgets=[40] * 4, cut=cut)
    assert got == [row[:11] for row in whole]


def test_rows_do_not_see_each_other():
    """Alone, or in a batch that others leave and that stands in another order: the same tokens."""
    sampler = Sampler(EFT, {"temperature": torch.tensor([1.0, 0.7, 1.2, 0.0]), "top_p": 0.95})
    whole, _ = run(3, sampler=sampler, ends=[END], budgets=[25, 9, 17, 30])
    for row in range(4):
        own = Sampler(EFT, {"temperature": float(sampler.options["temperature"][row]), "top_p": 0.95})
        prompt = PROMPTS[row][MASK[row] == 1][None]
        alone, _ = run(
            3,
            sampler=own,
            ends=[END],
            budgets=[[25, 9, 17, 30][row]],
            prompts=(prompt, None),
            seeds=torch.tensor([row]),
        )
        assert alone == [whole[row]]


def test_seeds_decide():
    first, _ = run(3)
    again, _ = run(3)
    other, _ = run(3, seeds=torch.arange(4) + 100)
    assert first == again
    assert first != other


def test_statistics_add_up():
    statistics = Statistics()
    tokens, marks = run(4, statistics=statistics, budgets=[29] * 4)
    assert statistics.emitted == sum(map(len, tokens)) == 4 * 29
    counted = [sum(mark is kind for how in marks for mark in how) for kind in TokenSource]
    assert statistics.accepted == counted[TokenSource.accepted]
    assert statistics.drafted == counted[TokenSource.accepted] + counted[TokenSource.resampled]
    assert (
        statistics.rounds == counted[TokenSource.resampled] + counted[TokenSource.bonus] + counted[TokenSource.step] - 4
    )
    assert 0 < statistics.acceptance < 1


def test_an_invalid_row_is_named():
    models = tables(3, VOCAB, seed=4)
    tokens, _ = run(0, models=models, budgets=[12] * 4)
    models[2][tokens[2][4], tokens[2][5]] = torch.nan
    for k in (0, 3):
        sampler = Sampler(EFT, {"temperature": 1.0})
        with pytest.raises(RuntimeError, match=r"row \d, new token \d+: a model's logits hold NaN"):
            run(k, models=models, sampler=sampler, budgets=[60] * 4)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.95}])
def test_stock_models(family, model_of, ragged, options):
    """Greedy: token for token what the ordinary loop gives. Sampled: a row's tokens do not depend on its batch."""
    models = [model_of(family, seed) for seed in (0, 1, 0)]
    sampler = Sampler([0.6, 0.6, -0.2], options)
    rows = ragged[0].shape[0]

    def decode(k, prompts, seeds):
        readers = [StaticCacheModel(model) for model in models]
        return run(k, readers=readers, sampler=sampler, budgets=[20] * len(seeds), prompts=prompts, seeds=seeds)[0]

    found = decode(4, ragged, torch.arange(rows))
    if options["temperature"] == 0:
        assert found == decode(0, ragged, torch.arange(rows))
        return
    row = ragged[0][1][None]
    assert decode(4, (row, None), torch.tensor([1])) == found[1:2]


def test_auto_decodes():
    greedy = Sampler(EFT, {"temperature": 0.0})
    want, _ = run(0, sampler=greedy)
    got, _ = run(Adaptive(), sampler=greedy)
    assert got == want
