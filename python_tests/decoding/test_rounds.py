"""Rounds of speculation as steps of the engine: tokens, sources and statistics of a plain reference."""

import pytest
import torch

from eft_ext.decoding.requests import InvalidRow, Request
from eft_ext.decoding.speculative.draft_length import Adaptive
from eft_ext.decoding.speculative.state import advance_round
from eft_ext.methods import Amplify, Conservative, Contrast, Plain, UpScale
from python_tests.helpers.plain_rounds import method_of_row
from python_tests.helpers.round_loops import GREEDY, MILD, SAMPLED, SEEDS, decode, engine_of, plainly, trio_of
from python_tests.helpers.slow_params import slowly


@pytest.mark.slow
def test_every_family_as_by_the_reference(family, model_of, ragged):
    trio, budgets = trio_of(model_of, family), [30, 9, 20, 1]
    free, _, _ = plainly(trio, ragged, budgets, 4)
    ends = {free[0][17], free[2][12]}
    expected = plainly(trio, ragged, budgets, 4, ends=ends)
    assert expected[0] != free
    assert expected[2].accepted > 3
    for lag in (0, 3):
        assert decode(trio, ragged, budgets, 4, ends=ends, lag=lag)[:3] == expected


METHODS = {
    "beta": UpScale(0.4),
    "beta by row": UpScale(torch.tensor([0.1, 0.8, 0.4, 1.2])),
    "scale": Amplify(0.5),
    "scale by row": Amplify(torch.tensor([0.1, 0.5, 1.0, 1.5])),
    "conservative": Conservative(0.8, method=Amplify(0.6)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options",
    [SAMPLED, *slowly(GREEDY, {}, {"temperature": 0.7, "top_k": 20, "min_p": 0.02})],
    ids=str,
)
def test_methods_and_filters(llamas, ragged, method, options):
    budgets, how = [26, 12, 19, 7], dict(options=options, method=METHODS[method])
    expected = plainly(llamas, ragged, budgets, 5, **how)
    assert expected[2].accepted
    assert decode(llamas, ragged, budgets, 5, lag=2, **how)[:3] == expected


@pytest.mark.parametrize("k", [3, *slowly(0, 1, 2, 7, 20)])
def test_lengths_of_drafts(llamas, ragged, k):
    budgets = [40, 3, 22, 17]
    expected = plainly(llamas, ragged, budgets, k)
    for lag in (0, 1, 6):
        assert decode(llamas, ragged, budgets, k, lag=lag)[:3] == expected


@pytest.mark.slow
def test_greedy_tokens_are_those_without_drafts(llamas, ragged):
    budgets = [40, 17, 30, 5]
    expected = decode(llamas, ragged, budgets, 0, options=GREEDY)[0]
    for k in (3, 8, Adaptive()):
        assert decode(llamas, ragged, budgets, k, options=GREEDY, lag=2)[0] == expected


def test_the_first_model_may_draft(llamas, ragged):
    pair, budgets = llamas[1:], [20, 15, 9, 20]
    expected = plainly(pair, ragged, budgets, 3, method=Contrast(0.3, 0.0), draft_model=0)
    assert decode(pair, ragged, budgets, 3, method=Contrast(0.3, 0.0), draft_model=0, lag=1)[:3] == expected


def test_a_model_alone_drafts_for_itself(llamas, ragged):
    """p = q: every draft is accepted."""
    statistics = decode(llamas[:1], ragged, [20] * 4, 3, method=Plain(), draft_model=0)[2]
    assert statistics.acceptance == 1


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 4])
def test_a_table_of_positions_is_not_overrun(build, ragged, lag):
    """512 positions: near their end the host waits until it knows how much room there is."""
    trio = [build("gpt2", seed, 16) for seed in (0, 1, 2)]
    start = torch.randint(5, 200, (3, 490), generator=torch.Generator().manual_seed(0))
    batch, budgets = (start, torch.ones_like(start)), [22, 22, 9]
    expected = plainly(trio, batch, budgets, 8)
    assert decode(trio, batch, budgets, 8, lag=lag)[:3] == expected
    with pytest.raises(ValueError, match="needs 513 positions"):
        decode(trio, batch, [30, 22, 9], 8, lag=lag)


@pytest.mark.slow
def test_ended_rows_stay_within_their_storage(llamas):
    """A row of 127 tokens in 128 slots that ends at once stands beside a short one: it must not write into that."""
    long = torch.randint(5, 200, (2, 127), generator=torch.Generator().manual_seed(1))
    long[1, :-4] = 0
    batch, budgets = (long, (long > 0).long()), [1, 40]
    expected = plainly(llamas, batch, budgets, 8)
    for lag in (0, 2):
        assert decode(llamas, batch, budgets, 8, bucket=lambda n: 2, lag=lag)[:3] == expected


@pytest.mark.slow
def test_storage_and_what_attention_reads_grow(llamas, ragged):
    """The host does not know how long rows are, and makes room for the longest that there may be."""
    budgets = [150, 40, 150, 77]
    expected = plainly(llamas, ragged, budgets, 6)
    for lag in (0, 4):
        assert decode(llamas, ragged, budgets, 6, lag=lag)[:3] == expected


def by_row(step):
    return [0.1 * row + 0.02 * step for row in range(10)]


METHODS_OF_TEN = [MILD, UpScale(by_row), Conservative([0.5 + 0.05 * row for row in range(10)])]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS_OF_TEN, ids=str)
@pytest.mark.parametrize("lag", [3, *slowly(0)])
def test_requests_take_the_places_of_those_that_ended(llamas, ragged, lag, method):
    rows = [ids[keep.bool()].tolist() for ids, keep in zip(*ragged, strict=True)]
    budgets = [7, 2, 15, 30, 1, 8, 3, 12, 6, 20]
    rows = [rows[i % 4] + [100 + i] * (i // 4) for i in range(len(budgets))]

    def alone(i):
        ids = torch.tensor([rows[i]])
        own = engine_of(llamas, 1, 4, method=method_of_row(method, i))
        own.start([Request(0, 50 + i, budgets[i])], [(ids, ids > 0)] * 3)
        return [output.token for outputs in own.run() for output in outputs]

    engine = engine_of(llamas, len(budgets), 4, lag=lag, slots=3, method=method)
    waiting = list(enumerate(budgets))

    def take(n):
        taken, waiting[:n] = waiting[:n], []
        longest = max(len(rows[i]) for i, _ in taken)
        ids = torch.tensor([[0] * (longest - len(rows[i])) + rows[i] for i, _ in taken])
        return [Request(i, 50 + i, budget) for i, budget in taken], [(ids, (ids > 0).long())] * 3

    tokens = {i: [] for i in range(len(budgets))}
    engine.start(*take(3))
    for outputs in engine.run():
        for number, token, *_ in outputs:
            tokens[number].append(token)
        if engine.free and waiting:
            engine.admit(*take(engine.free))
    assert list(tokens.values()) == [alone(i) for i in range(len(budgets))]


@pytest.mark.parametrize("lag", [2, *slowly(0)])
def test_a_request_that_the_caller_ends(llamas, ragged, lag):
    """Rounds under way are thrown away; its slot takes another request; the others draw what they draw without."""
    budgets = [20, 30, 14, 19]
    whole = plainly(llamas, ragged, budgets, 3)[0]
    engine = engine_of(llamas, 4, 3, lag=lag, slots=3)
    requests = [Request(i, SEEDS[i], budget) for i, budget in enumerate(budgets)]
    engine.start(requests[:3], [(ragged[0][:3], ragged[1][:3])] * 3)
    tokens = {i: [] for i in range(4)}
    for outputs in engine.run():
        for number, token, *_ in outputs:
            tokens[number].append(token)
        if len(tokens[1]) >= 5 and requests[3:]:
            assert len(engine._pending) == lag
            whole[1] = whole[1][: len(tokens[1])]
            engine.end([1])
            engine.admit([requests.pop()], [(ragged[0][3:], ragged[1][3:])] * 3)
    assert len(whole[1]) < 9
    assert list(tokens.values()) == whole


def test_an_invalid_row_is_named(llamas, ragged, build):
    tokens = decode(llamas, ragged, [20] * 4, 3, options=GREEDY)[0]
    broken = build("llama", 2, 16)
    with torch.no_grad():  # once a row reads what row 1 says at 6, the base model's logits are none
        broken.model.embed_tokens.weight[tokens[1][6]] = torch.nan
    places = [t.index(tokens[1][6]) + 1 for t in tokens if tokens[1][6] in t]
    with pytest.raises(InvalidRow, match=r"^row \d, new token \d+: no token can be drawn") as said:
        decode([*llamas[:2], broken], ragged, [20] * 4, 3, options=GREEDY)
    assert len(said.value.tokens) in places
    assert said.value.tokens == tokens[said.value.request][: len(said.value.tokens)]


def test_the_advance_against_plain_python():
    noise = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows, k, slots = 6, 3, 4
        whole = [int(torch.randint(0, n, (), generator=noise)) for n in (9, 9)]
        accepted = torch.randint(0, k + 1, (rows,), generator=noise)
        drafted = torch.maximum(accepted, torch.randint(0, k + 1, (rows,), generator=noise))
        found = torch.randint(0, 9, (rows, k + 1), generator=noise)
        for b in range(rows):
            found[b, accepted[b] + 1 :] = -1
            if b == whole[0]:
                found[b, accepted[b]] = -1  # an invalid row
        steps = torch.randint(0, 20, (rows,), generator=noise)
        max_new_tokens = steps + accepted + 1 + torch.randint(0, 2, (rows,), generator=noise)
        active = torch.randint(0, 2, (rows,), generator=noise)
        tokens, tick = torch.full((rows, 1), 77), torch.tensor([whole[1]])
        ring, held = torch.full((slots, rows + 1, 9), 55), [torch.full((rows + 1,), 30), torch.full((rows + 1,), 40)]
        eos_token_ids, before = torch.tensor([2, 5]), steps.tolist()
        advance_round(
            found, accepted, drafted, torch.arange(k + 1), tokens, steps, max_new_tokens, (now := active.clone()), ring,
            tick, eos_token_ids, [x[:rows] for x in held],
        )  # fmt: skip
        for b in range(rows):
            said = []
            for token in found[b, : accepted[b] + 1].tolist():
                said.append(token)
                if token in (2, 5, -1):
                    break
            goes_on = said[-1] not in (2, 5, -1) and before[b] + len(said) < max_new_tokens[b]
            on = bool(active[b])
            entry = ring[whole[1] % slots, b].tolist()
            assert entry[0] == (len(said) if on else 0)
            assert entry[1:3] == [accepted[b], drafted[b]]
            assert entry[3 : 3 + len(said)] == said
            assert int(steps[b]) == before[b] + len(said) * on
            assert bool(now[b]) == (on and goes_on)
            assert [int(x[b]) for x in held] == [(n + int(accepted[b]) + 1) * (on and goes_on) for n in (30, 40)]
            assert int(tokens[b]) == (max(int(found[b, accepted[b]]), 0) if on else 77)
        assert [int(x[rows]) for x in held] == [30, 40]
        assert (ring[:, rows] == 55).all()
        assert int(tick) == whole[1] + 1
