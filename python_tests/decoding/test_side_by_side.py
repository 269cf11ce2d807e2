"""Models of a step side by side on a CPU: the tokens of one after another, whatever the threads."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import current_thread

import pytest
import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from eft_ext.decoding import side_by_side
from eft_ext.decoding.side_by_side import SideBySide, assigned, dealt_out, is_worth
from eft_ext.hf import EmulatedModel
from eft_ext.hf.runners import engine_pool

OPTIONS = {"max_new_tokens": 20, "eos_token_id": [999], "pad_token_id": 0}


@pytest.fixture
def threads(monkeypatch):
    """Sets torch's threads for a test, and has the smallest models run side by side."""
    before = torch.get_num_threads()
    monkeypatch.setattr(side_by_side, "WORTH", 1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def used(monkeypatch):
    """The threads' names in which passes ran."""
    names, run = set(), side_by_side._run

    def heard(works):
        names.add(current_thread().name)
        return run(works)

    monkeypatch.setattr(side_by_side, "_run", heard)
    return names


@pytest.fixture
def llamas(model_of):
    return model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16)


def test_lanes():
    assert dealt_out([6, 3, 3], 2) == (1, 1)
    assert assigned([6, 3, 3], [1, 1]) == [[0], [1, 2]]
    assert assigned([3, 6, 3], [1, 1]) == [[1], [0, 2]]
    assert dealt_out([6, 3, 3], 3) == (1, 1, 1)
    assert dealt_out([6, 3, 3], 4) == (2, 1, 1)
    assert dealt_out([60, 20, 20], 16) == (10, 3, 3)
    assert assigned([20, 60, 20], [10, 3, 3]) == [[1], [0], [2]]
    assert is_worth([10**9, 2**24, 0], 2)
    assert not is_worth([10**9, 2**23, 0], 2)
    assert not is_worth([10**9, 10**9], 1)
    assert not is_worth([10**9], 8)


WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 1.2, "top_k": 0, "seed": 5},
    "drafts": {"speculate": 3},
    "beside Python": {"repetition_penalty": 1.3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_same_tokens(way, count, llamas, ragged, threads, used):
    ids, mask = ragged
    model = EmulatedModel(*llamas)
    want = model.generate(ids, attention_mask=mask, **OPTIONS, **WAYS[way])
    assert not used, "one thread"
    threads(count)
    got = model.generate(ids, attention_mask=mask, **OPTIONS, **WAYS[way])
    assert torch.equal(got, want)
    lanes = 2 if way == "drafts" else min(count, 3)  # a round's drafts come from this thread
    assert len(used) >= min(lanes, 2)
    assert all(name.startswith("eft_ext") for name in used)
    assert torch.get_num_threads() == count


def test_traced(llamas, threads, used, monkeypatch):
    monkeypatch.setattr("eft_ext.decoding.capture.traced_forward.AFTER", 2)
    model = EmulatedModel(*llamas)
    want = model.generate([[5, 6, 7]], **OPTIONS)
    threads(2)
    assert torch.equal(model.generate([[5, 6, 7]], **OPTIONS), want)
    assert len(used) == 2


def test_models_that_call_other_python_take_turns(llamas, threads, used):
    threads(2)
    heard = []
    handle = llamas[1].register_forward_hook(lambda *_: heard.append(current_thread().name))
    EmulatedModel(*llamas).generate([[5, 6, 7]], **OPTIONS)
    handle.remove()
    assert not used
    assert set(heard) == {current_thread().name}


def test_who_watches_this_thread_sees_the_passes(llamas, threads, used, monkeypatch):
    monkeypatch.setattr("eft_ext.decoding.capture.traced_forward.AFTER", 10**9)  # tracing runs passes of its own
    model = EmulatedModel(*llamas)
    counts = []
    for count in (1, 2):
        threads(count)
        with FlopCounterMode(display=False) as counter, profile() as profiler:
            model.generate([[5, 6, 7]], **OPTIONS)
        counts.append((counter.get_total_flops(), len([e for e in profiler.events() if e.name == "aten::index_copy_"])))
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0
    assert not used


def test_one_model_in_two_places_takes_turns(llamas, threads, used):
    threads(2)
    EmulatedModel(llamas[0], llamas[1], llamas[1]).generate([[5, 6, 7]], **OPTIONS)
    assert not used


def test_an_adapter_and_its_base_are_one_pass(model_of, threads, used):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model_of("llama", 1, 16), config).eval()
    try:
        model = EmulatedModel(model_of("llama", 0, 32, 272), tuned)
        want = model.generate([[5, 6, 7]], **OPTIONS)
        threads(2)
        assert torch.equal(model.generate([[5, 6, 7]], **OPTIONS), want)
        assert len(used) == 2
        used.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine_pool, "groups_of", lambda members: [])
            model.generate([[5, 6, 7]], **OPTIONS)
        assert not used, "two passes of one model, which has one state"
    finally:
        tuned.unload()


class Pass:
    def __init__(self, value, error=None):
        self.value, self.error = value, error
        self.ran = 0

    def run(self):
        self.ran += 1
        if self.error is not None:
            raise self.error
        return torch.tensor(self.value)


def test_results_are_in_the_order_of_works(threads):
    passes = [Pass(i) for i in range(4)]
    run = SideBySide(passes, [1, 4, 2, 3], 2)
    assert [int(x) for x in run([partial(one.run) for one in passes])] == [0, 1, 2, 3]
    assert [int(x) for x in run([partial(one.run) for one in (passes[3], passes[1])])] == [3, 1]
    assert [int(x) for x in run([partial(passes[2].run)])] == [2]


def test_an_error_is_raised_when_all_have_ended(threads):
    passes = [Pass(0), Pass(1, ValueError("no room")), Pass(2)]
    run = SideBySide(passes, [3, 2, 1], 3)
    with pytest.raises(ValueError, match="no room"):
        run([partial(one.run) for one in passes])
    assert [one.ran for one in passes] == [1, 1, 1]
    passes[1].error = None
    assert [int(x) for x in run([partial(one.run) for one in passes])] == [0, 1, 2]


def test_two_generations_at_once(llamas, threads, used):
    model = EmulatedModel(*llamas)
    prompts = [[[5, 6, 7]], [[8, 9]]]
    want = [model.generate(prompt, **OPTIONS) for prompt in prompts]
    threads(2)
    with ThreadPoolExecutor(2) as both:
        got = list(both.map(lambda prompt: [model.generate(prompt, **OPTIONS) for _ in range(3)], prompts))
    for results, expected in zip(got, want, strict=True):
        assert all(torch.equal(result, expected) for result in results)
    assert used


def test_a_forked_child_makes_lanes_of_its_own():
    code = (
        "import os, torch; from functools import partial; from eft_ext.decoding.side_by_side import SideBySide\n"
        "class One:\n    def run(self): return torch.ones(())\n"
        "def go():\n    some = [One(), One()]; run = SideBySide(some, [2, 1], 2)\n"
        "    return sum(map(float, run([partial(one.run) for one in some])))\n"
        "assert go() == 2\npid = os.fork()\n"
        "if pid == 0: os._exit(0 if go() == 2 else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), timeout=120, check=False)
    assert done.returncode == 0
