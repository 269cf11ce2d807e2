"""The native advance of a step and its reference in PyTorch do the same, on random states."""

import pytest
import torch

from eft_ext.decoding.state import INACTIVE, INVALID, State, advance


def random_state(seed, rows, used, slots):
    draw = torch.Generator().manual_seed(seed)

    def numbers(low, high, *shape):
        return torch.randint(low, high, shape, generator=draw)

    state = State(rows, [3, 7] if seed % 3 else [], slots, torch.device("cpu"))
    bounds = {"steps": (0, 5), "max_new_tokens": (1, 7), "active": (0, 2), "next_tokens": (INVALID, 9)}
    for name, (low, high) in bounds.items():
        state._all[name].copy_(numbers(low, high, rows))
    state.tick.copy_(numbers(0, 100, 1))
    state.use(used)
    lengths = [numbers(0, 50, rows) for _ in range(3)]
    state.attach(lengths)
    return state, lengths


@pytest.mark.parametrize("read", [True, False])
def test_native_and_plain_advances_agree(read):
    for seed in range(60):
        rows, slots = 1 + seed % 9, 1 + seed % 4
        used = max(1, rows - seed % 3)
        (mine, my_lengths), (other, lengths) = (random_state(seed, rows, used, slots) for _ in range(2))
        assert mine.prepared_advance is not None
        mine.advance(read=read)
        names = ("next_tokens", "tokens", "steps", "max_new_tokens", "active", "ring", "tick", "eos_token_ids")
        advance(*(getattr(other, name) for name in names), [x[:used] for x in lengths] if read else [])
        for name, value in other._all.items():
            assert torch.equal(mine._all[name], value), name
        assert torch.equal(mine.ring, other.ring)
        assert torch.equal(mine.tick, other.tick)
        assert all(map(torch.equal, my_lengths, lengths))


def test_what_a_row_does_with_its_token():
    state = State(5, [9], 2, torch.device("cpu"))
    state.attach([])
    state.restart(5)
    state.admit([0, 1, 2, 3], [1, 2, 3, 4], [5, 1, 5, 5])
    state.next_tokens.copy_(torch.tensor([4, 4, 9, INVALID, 4]))
    state.advance()
    assert state.ring[0].tolist() == [4, 4, 9, INVALID, INACTIVE]
    assert state.active.tolist() == [1, 0, 0, 0, 0], "budget, end, invalid row, idle slot"
    assert state.steps.tolist() == [1, 1, 1, 1, 0]
    assert state.tokens[:, 0].tolist() == [4, 4, 9, 0, 4]
    others = state.admit([4], [7], [3])
    assert others.tolist() == [1, 0, 0, 0, 0]
    assert state.active.tolist() == [0, 0, 0, 0, 1]
