"""Linear layers for few rows against products in float64, and the same bits for a row wherever it stands."""

import copy
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.functional import linear as torch_linear

from eft_ext.ops import force_isa
from eft_ext.ops import linear as module
from eft_ext.ops.linear import linear, suits
from python_tests.ops.test_fuzz import instruction_sets

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request):
    if request.param not in instruction_sets():
        pytest.skip(f"this processor has no {request.param}")
    force_isa(request.param)
    yield request.param
    force_isa("auto")


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(module, "MIN_BYTES", 1)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def draw(rows, features, outputs, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, features), (outputs, features), (outputs,))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def assert_close(got, x, weight, bias):
    """Each lane adds at most K products, one rounding each (a fused one, or two), then come at most 5 sums: with
    u = 2^-24, |error| <= (2K + 5) u sum|x w| before the bias, and one more rounding to the dtype."""
    exact = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    unit = torch.finfo(x.dtype).eps / 2
    tiny = torch.finfo(x.dtype).smallest_normal * torch.finfo(x.dtype).eps
    bound = (2 * x.shape[-1] + 6) * 2.0**-24 * size * (1 + unit) + unit * exact.abs() + tiny
    assert ((got.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(isa, dtype):
    for rows, (features, outputs) in itertools.product(
        (1, 2, 3, 4, 5, 9, 16, 63, 64), ((1, 1), (7, 5), (64, 8), (100, 33), (512, 12), (1063, 6))
    ):
        x, weight, bias = draw(rows, features, outputs, dtype)
        assert suits(x, weight)
        assert_close(linear(x, weight), x, weight, None)
        assert_close(linear(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_gets_the_same_bits_everywhere(isa, dtype):
    """Alone and among others, with one thread and two, from the whole weight and from a part of it."""
    x, weight, bias = draw(64, 1100, 301, dtype)
    torch.set_num_threads(1)
    whole = linear(x, weight, bias)
    for rows in range(1, 64):
        assert torch.equal(linear(x[-rows:], weight, bias), whole[-rows:])
    for start, stop in ((0, 1), (1, 6), (3, 300), (298, 301)):
        assert torch.equal(linear(x[:9], weight[start:stop], bias[start:stop]), whole[:9, start:stop])
    torch.set_num_threads(2)
    assert torch.equal(linear(x, weight, bias), whole)
    assert torch.equal(linear(x[5:6], weight, bias), whole[5:6])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_to_nearest_even_as_torch(isa, dtype):
    """With one feature of weight 1 the output is the bias plus x, rounded once: ties, subnormals, overflow."""
    most = torch.finfo(dtype).max
    x = torch.tensor([[0.0], [1.0], [-3.0], [2.0**-20], [most], [torch.inf], [-torch.inf], [torch.nan]], dtype=dtype)
    steps = [0.0, torch.finfo(dtype).eps / 2, 1.5 * torch.finfo(dtype).eps, 2.0**-24, -(2.0**-14), most, -most]
    bias = torch.tensor(steps, dtype=dtype)
    got = linear(x, torch.ones(len(steps), 1, dtype=dtype), bias)
    want = (x.float() + bias.float()).to(dtype)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(7.0), want.nan_to_num(7.0))


def test_nan_and_infinity_reach_their_outputs_only(isa):
    for dtype, features in itertools.product(DTYPES, (1, 40, 513)):
        x, weight, _ = draw(9, features, 6, dtype)
        clean = linear(x, weight)
        x[4, -1], weight[2, -1] = torch.nan, torch.inf
        got = linear(x, weight)
        assert got[4].isnan().all()
        others = [i for i in range(9) if i != 4]
        assert not got[others, 2].isfinite().any()
        kept = [j for j in range(6) if j != 2]
        assert torch.equal(got[others][:, kept], clean[others][:, kept])


def test_leading_dimensions_and_strides():
    x, weight, bias = draw(12, 40, 9, torch.float32)
    want = linear(x, weight, bias)
    assert torch.equal(linear(x.view(2, 3, 2, 40), weight, bias), want.view(2, 3, 2, 9))
    assert torch.equal(linear(x[3], weight, bias), want[3])
    assert torch.equal(linear(x.T.contiguous().T, weight, bias), want)
    wide = torch.randn(12, 80)
    wide[:, ::2] = x
    assert torch.equal(linear(wide[:, ::2], weight, bias), want)
    negated = torch.view_as_complex(torch.stack([x, -x], dim=-1)).conj().imag  # a negation beside the memory
    assert negated.is_neg()
    assert_close(linear(negated, weight, bias), x, weight, bias)


def test_what_does_not_suit_is_torchs():
    x, weight, bias = draw(4, 32, 8, torch.float32)
    assert suits(x, weight)
    for other, of in (
        (x.bfloat16(), weight),
        (x.double(), weight.double()),
        (x[:, :31], weight),
        (x[:0], weight),
        (torch.randn(65, 32), weight),
        (x, torch.randn(32, 8).T),
        (x.clone().requires_grad_(), weight),
        (x, weight.clone().requires_grad_()),
        (x.to("meta"), weight.to("meta")),
    ):
        assert not suits(other, of)
    more = torch.randn(65, 32)
    assert torch.equal(linear(more, weight, bias), torch_linear(more, weight, bias))
    trained = weight.clone().requires_grad_()
    linear(x, trained, bias).sum().backward()
    torch.testing.assert_close(trained.grad, x.sum(0).expand(8, 32))
    with torch.no_grad():
        assert suits(x, trained)
    scale = bias.clone().requires_grad_()
    linear(x, weight, scale).sum().backward()
    assert torch.equal(scale.grad, torch.full((8,), 4.0))
    with pytest.raises(RuntimeError):
        linear(x[:, :31], weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_small_weights_are_torchs(monkeypatch):
    x, weight, _ = draw(4, 32, 8, torch.float32)
    monkeypatch.setattr(module, "MIN_BYTES", weight.nbytes + 1)
    assert not suits(x, weight)
    monkeypatch.setattr(module, "MIN_BYTES", weight.nbytes)
    assert suits(x, weight)


class Layer(torch.nn.Module):
    def __init__(self, weight, bias):
        super().__init__()
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.bias = torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, x):
        return linear(x, self.weight, self.bias)


@pytest.mark.filterwarnings("error::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_trace_records_the_operator():
    """And replays it with other numbers of rows, also with more than the kernel takes."""
    x, weight, bias = draw(70, 64, 24, torch.float32)
    layer = Layer(weight, bias)
    with torch.inference_mode():
        traced = torch.jit.trace(layer, x[:3])
        assert "eft_ext::linear" in str(traced.graph)
        for rows in (1, 3, 64):
            assert torch.equal(traced(x[:rows]), layer(x[:rows]))
            assert_close(traced(x[:rows]), x[:rows], weight, bias)
        assert torch.equal(traced(x), torch_linear(x, weight, bias))
        frozen = torch.jit.freeze(copy.deepcopy(traced).eval())
        assert torch.equal(frozen(x[:5]), layer(x[:5]))


def test_fake_tensors_and_compile():
    x, weight, bias = draw(6, 32, 8, torch.bfloat16)
    torch.library.opcheck(torch.ops.eft_ext.linear.default, (x, weight, bias))
    torch.library.opcheck(torch.ops.eft_ext.linear.default, (x.view(2, 3, 32), weight))
    deep = x.view(2, 3, 32)
    with FakeTensorMode() as mode:
        got = linear(mode.from_tensor(deep), mode.from_tensor(weight))
    assert (got.shape, got.dtype) == ((2, 3, 8), torch.bfloat16)
    compiled = torch.compile(lambda x: linear(x, weight, bias) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), linear(x, weight, bias) + 1)


def test_tensors_without_memory_are_left_to_torch():
    with FakeTensorMode():
        x, weight = torch.ones(3, 512), torch.ones(256, 512)
    y = linear(x, weight)  # outside of the mode
    assert type(y) is FakeTensor
    assert y.shape == (3, 256)
