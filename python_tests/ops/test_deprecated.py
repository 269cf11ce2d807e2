"""Old names of public arguments and results: they work, and say what they are called now."""

import pytest
import torch

from eft_ext import combine, fused_mix, fused_step, fused_verify, reference

LOGITS = [torch.arange(40.0)[None].roll(k, 1) for k in range(3)]
ONLY_7 = torch.tensor([[1 << 7, 0]], dtype=torch.int32)


def verified(**mask):
    together = [x[:, None].expand(1, 2, 40) for x in LOGITS]
    return fused_verify(torch.tensor([[7]]), None, together, [1.0, 1.0, -1.0], temperature=0, **mask).tokens


CALLS = {
    "fused_step": lambda **mask: fused_step(*LOGITS, temperature=0, **mask),
    "fused_mix": lambda **mask: fused_mix(LOGITS, [1.0, 1.0, -1.0], temperature=0, **mask),
    "combine": lambda **mask: combine(LOGITS, [1.0, 1.0, -1.0], **mask).argmax(dim=1),
    "fused_verify": verified,
    "reference.combine": lambda **mask: reference.combine(LOGITS, [1.0, 1.0, -1.0], **mask).argmax(dim=1),
    "reference.distribution": lambda **mask: reference.distribution(LOGITS[:1], [1.0], **mask).argmax(dim=1),
    "reference.step": lambda **mask: (
        reference.step(LOGITS[:1], [1.0], temperature=0, seed=0, position=0, **mask).tokens
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_allowed_is_token_bitmask(name):
    """Only token 7 may come out of either name; both at once are refused."""
    call = CALLS[name]
    assert set(call(token_bitmask=ONLY_7).flatten().tolist()) == {7}
    with pytest.warns(DeprecationWarning, match="allowed: now token_bitmask") as said:
        assert set(call(allowed=ONLY_7).flatten().tolist()) == {7}
    assert said[0].filename == __file__
    with pytest.raises(TypeError, match="token_bitmask: expected once, got it under its old name `allowed` too"):
        call(token_bitmask=ONLY_7, allowed=ONLY_7)


def test_kept_is_num_kept():
    details = fused_mix(LOGITS, [1.0, 1.0, -1.0], top_k=5, seed=0, position=0, return_details=True)
    assert details.num_kept.tolist() == [5]
    with pytest.warns(DeprecationWarning, match="kept: now num_kept") as said:
        assert details.kept is details.num_kept
    assert said[0].filename == __file__


def test_old_names_in_compiled_code():
    """torch.compile takes them too, without the warning that it could not trace."""

    @torch.compile(fullgraph=True, backend="eager")
    def step(mask):
        details = fused_step(*LOGITS, temperature=0, allowed=mask, return_details=True)
        return details.tokens, details.kept

    tokens, kept = step(ONLY_7)
    assert (tokens.item(), kept.item()) == (7, 1)
