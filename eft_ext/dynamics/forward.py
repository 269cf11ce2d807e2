"""The model as a function of its parameters: logits of response tokens, and their derivative along a direction."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.precision import KeepDouble
from eft_ext.dynamics.responses import Responses

Parameters = dict[str, Tensor]


@runtime_checkable
class _Wrapper(Protocol):
    """peft's models, whose own forward takes anything."""

    def get_base_model(self) -> nn.Module: ...


def trainable(model: nn.Module) -> Parameters:
    """The parameters that a training step would change, tied ones once.

    Raises:
        ValueError: there are none.
    """
    found = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("model: expected at least one parameter with requires_grad, got none")
    return found


def response_logits(model: nn.Module, responses: Responses, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits [tokens, vocab] that predict the response tokens; of at least fp32.

    Args:
        model: of transformers, or any module called with ids [rows, length] that returns logits [rows, length, vocab].
        responses: on the model's device.
        parameters: used in place of the model's own.
    """
    logits = token_logits(model, responses, parameters)
    return logits if logits.dtype == torch.float64 else logits.float()


def token_logits(model: nn.Module, responses: Responses, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """The same in the model's own dtype.

    Only the hidden states that predict a response token go through the unembedding of a model whose forward takes
    `logits_to_keep`, as transformers' do. Arguments are `response_logits`'.
    """
    inner: Any = model.get_base_model() if isinstance(model, _Wrapper) else model
    accepted = inspect.signature(inner.forward).parameters
    options: dict[str, Any] = {"attention_mask": responses.attention.long(), "use_cache": False}
    options = {name: value for name, value in options.items() if name in accepted}
    double = next(model.parameters()).dtype == torch.float64
    alone: AbstractContextManager[list[bool]] = nullcontext([])
    if "logits_to_keep" in accepted and hasattr(inner, "get_output_embeddings"):
        alone = _tokens_alone(inner.get_output_embeddings(), responses)
    with KeepDouble() if double else nullcontext(), alone as picked:
        if parameters is None:
            output = model(responses.ids, **options)
        else:
            output = torch.func.functional_call(model, dict(parameters), (responses.ids,), options)
    logits: Tensor = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
    return logits[0] if picked else predicting(logits, responses)


def predicting(values: Tensor, responses: Responses) -> Tensor:
    """Those of values [rows, columns, ...] that predict a response token, [tokens, ...].

    Columns that ids have not are in front, where prompt tuning puts its own.
    """
    more = values.shape[1] - responses.ids.shape[1]
    return values[responses.row, responses.position - 1 + more]


@contextmanager
def _tokens_alone(layer: Any, responses: Responses) -> Iterator[list[bool]]:
    """Within it the unembedding `layer` is given [1, tokens, width], the inputs that predict a response token.

    Gives a list that is empty until this has happened.
    """
    picked: list[bool] = []
    if layer is None:
        yield picked
        return
    rows, length = responses.ids.shape

    def pick(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        if len(inputs) != 1 or inputs[0].ndim != 3 or len(inputs[0]) != rows or inputs[0].shape[1] < length:
            return None
        picked.append(True)
        return (predicting(inputs[0], responses)[None],)

    hook = layer.register_forward_pre_hook(pick)
    try:
        yield picked
    finally:
        hook.remove()


@torch.no_grad()
def sequence_log_probs(model: nn.Module, responses: Responses, batch_size: int = 16) -> Tensor:
    """log π(response | prompt), [rows], in nats. Raises ValueError for a row beyond the model's table of positions."""
    check_texts({"model": model}, {"responses": responses})
    device = device_of(model)
    sums = []
    with evaluating(model) as inner:
        for batch in responses.batches(batch_size):
            part = batch.to(device)
            sums.append(part.sums(token_log_probs(response_logits(inner, part), part.targets)))
    return torch.cat(sums)


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log π(target), [tokens], of logits [tokens, vocab]."""
    return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def jvp(
    function: Callable[[Parameters], Tensor], parameters: Parameters, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """function(parameters) and its derivative along `direction`, both of the function's shape.

    By forward-mode differentiation. Where an operator has none, by differentiating a vector-Jacobian product, which is
    linear in its vector, with respect to that vector: J d = ∂/∂v (Jᵀ v · d), at about three times the cost.
    """
    # The fused attention kernels have neither forward-mode nor second derivatives; the one in plain operators has.
    with sdpa_kernel(SDPBackend.MATH):
        try:
            return _forward_mode(function, parameters, direction)
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error).lower():
                raise
            return _double_backward(function, parameters, direction)


def _forward_mode(
    function: Callable[[Parameters], Tensor], parameters: Parameters, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(p, direction[name]) for name, p in parameters.items()}
        value, tangent = forward_ad.unpack_dual(function(duals))
    return value, torch.zeros_like(value) if tangent is None else tangent


def _double_backward(
    function: Callable[[Parameters], Tensor], parameters: Parameters, direction: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        value = function(leaves)
        vector = torch.zeros_like(value, requires_grad=True)
        back = torch.autograd.grad(value, list(leaves.values()), vector, create_graph=True, allow_unused=True)
        pairs = [
            (g, direction[name]) for name, g in zip(leaves, back, strict=True) if g is not None and g.requires_grad
        ]
        if not pairs:
            return value.detach(), torch.zeros_like(value)
        along = torch.stack([(g * d).sum() for g, d in pairs]).sum()
        (tangent,) = torch.autograd.grad(along, vector)
    return value.detach(), tangent


def vjp(
    function: Callable[[Parameters], Tensor], parameters: Parameters, cotangent: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Parameters]:
    """function(parameters), and Jᵀ·cotangent(value) by parameter: one forward, one backward."""
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        value = function(leaves)
        vector = cotangent(value.detach())
        back = torch.autograd.grad(value, list(leaves.values()), vector, allow_unused=True)
    found = zip(leaves.items(), back, strict=True)
    return vector, {name: torch.zeros_like(p) if g is None else g for (name, p), g in found}
