"""The Triton step under tracing: one node, no graph break, and opcheck where the kernels can run."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from eft_ext.ops import fused_step
from eft_ext.ops.backends.registry import backends
from python_tests.helpers import triton_interpreter as child


@pytest.mark.slow
def test_opcheck(interpreter):
    assert interpreter.call(child.checked_operator) == "passed"


def test_one_node_on_cuda_tensors_that_are_not_there():
    def step(large, tuned, base, position):
        return fused_step(large, tuned, base, seed=position, position=position, top_p=0.9, backend="triton") + 1

    with FakeTensorMode():
        logits = [torch.empty(4, 500, dtype=torch.bfloat16, device="cuda") for _ in range(3)]
        position = torch.zeros(4, dtype=torch.int64, device="cuda")
        graph = make_fx(step)(*logits, position).graph
    calls = [node.target for node in graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.eft_ext.step.default) == 1
    assert len(calls) == 2, calls  # the step and the addition


@pytest.mark.slow
def test_compiles_into_one_graph(interpreter):
    nodes, tokens, want = interpreter.call(child.compiled_step)
    assert nodes == ["eft_ext.step"]
    assert torch.equal(tokens, want)


def test_backends_tell_the_truth():
    found = backends()["triton"]
    assert found.available == torch.cuda.is_available()
    assert found.available or (found.reason and found.remedy)
