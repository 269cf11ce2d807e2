"""Requests' own parameters, checked and put in order, without an engine."""

import math
import re
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eft_ext.methods import Conservative, Interpolate, UpScale
from eft_ext.serving.vllm import parameters
from eft_ext.serving.vllm.mixing import as_columns, from_columns, num_columns, of_rows
from eft_ext.serving.vllm.parameters import Served, check_request, defaults, row_of, serve


def request(prompt_logprobs=None, **extra):
    return SimpleNamespace(extra_args=extra or None, prompt_logprobs=prompt_logprobs)


@pytest.mark.parametrize("value", [0, 1, -2.5, 3e38], ids=repr)
def test_a_number_is_taken(value):
    Served(UpScale(), v2=True).check(request(beta=value))
    assert row_of(UpScale(), request(beta=value)) == (float(value),)


# Numbers of libraries do not reach an engine in another process.
BAD = [
    *(math.nan, math.inf, -math.inf, 1e39, 10**400, True, "0.5", None, [0.5], 1j),
    *(Fraction(1, 3), np.float32(0.5), np.float64(0.5), np.int64(2)),
]


@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:12])
def test_others_are_refused(value):
    with pytest.raises(ValueError, match=rf"^beta: expected a finite number, got {re.escape(repr(value))}$"):
        Served(UpScale(), v2=True).check(request(beta=value))


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_bounds_are_the_methods(value):
    served = Served(Conservative(0.9), v2=True)
    served.check(request(scale=9.0, top_p=1.0))
    with pytest.raises(ValueError, match=rf"^top_p: expected a finite number in \[0, 1\], got {value}$"):
        served.check(request(top_p=value))


def test_a_misspelt_name_is_refused():
    with pytest.raises(ValueError, match=r"^betta: not a parameter of UpScale, which has beta$"):
        Served(UpScale(), v2=True).check(request(betta=1.0))
    Served(UpScale(), v2=True, shared=True).check(request(betta=1.0))
    Served(UpScale(), v2=True).check(request(kv_transfer_params={"a": 1}))


def test_v1_refuses_what_it_cannot_do():
    served = Served(UpScale(), v2=False, speculates=True)
    served.check(request(prompt_logprobs=1))
    with pytest.raises(ValueError, match=r"^beta: expected none beside speculation under vLLM's V1 model runner; "):
        served.check(request(beta=0.5))
    with pytest.raises(ValueError, match=r"^beta: expected none beside prompt_logprobs under vLLM's V1 "):
        Served(UpScale(), v2=False).check(request(prompt_logprobs=0, beta=0.5))
    Served(UpScale(), v2=True, speculates=True).check(request(prompt_logprobs=0, beta=0.5))


def test_rows_are_in_the_methods_order():
    method = Interpolate({"polite": 0.25, "talkative": 0.5})
    assert list(method.parameters) == ["polite", "talkative"]
    assert defaults(method) == (0.25, 0.5)
    assert row_of(method, request(talkative=2)) == (0.25, 2.0)
    assert [row_of(method, params) for params in (None, request(), request(other=1.0))] == [None] * 3
    rows = of_rows(method, torch.tensor([[0.25, 2.0], [1.0, 0.0]]))
    assert [weight.tolist() for weight in rows.parameters.values()] == [[0.25, 1.0], [2.0, 0.0]]


def test_a_request_is_one_of_any_engine(monkeypatch):
    """A process may have several engines, each with its own parameters, and engines of one model."""
    monkeypatch.setattr(parameters, "_served", {})
    check_request(request(anything=1), None)
    serve("first", Served(UpScale(), v2=True))
    serve("second", Served(Conservative(0.9), v2=True))
    check_request(request(beta=0.5), "first")
    check_request(request(scale=2.0), "second")
    check_request(request(anything=1), "of one model")
    with pytest.raises(ValueError, match="^beta: not a parameter of Conservative"):
        check_request(request(beta=0.5), "second")
    with pytest.raises(ValueError, match="^scale: not a parameter of UpScale"):
        check_request(request(scale=2.0), None)  # nobody knows which: one of them would ignore it


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_parameters_travel_bit_for_bit(dtype, count):
    """Beside hidden states of a type with fewer bits, where they are joined, split, and picked by row."""
    given = torch.randint(-(2**31), 2**31, (64, count), generator=torch.manual_seed(count)).int()
    given[0], given[1, 0] = 0x7F800001, -(2**31)  # a signalling NaN and -0
    columns = as_columns(given.view(torch.float32), dtype)
    assert columns.shape == (64, num_columns(count, dtype))
    hidden = torch.cat([torch.randn(64, 5).to(dtype), columns], dim=-1)
    picked = torch.arange(63, -1, -3)
    found = from_columns(hidden[picked].split([5, num_columns(count, dtype)], dim=-1)[1])
    assert torch.equal(found.view(torch.int32), given[picked])


def test_drafts_on_a_cpu_are_greedy():
    served = Served(UpScale(), v2=False, speculates=True, only_greedy=True)
    served.check(SimpleNamespace(extra_args=None, prompt_logprobs=None, temperature=0.0))
    with pytest.raises(ValueError, match=r"^temperature: expected 0 beside speculation on a CPU, got 0\.5; "):
        served.check(SimpleNamespace(extra_args=None, prompt_logprobs=None, temperature=0.5))


@pytest.mark.parametrize("value", ["x", None, [1.0], {}], ids=repr)
def test_what_nobody_checked_spoils_its_row_alone(value):
    assert math.isnan(row_of(UpScale(), request(beta=value))[0])
