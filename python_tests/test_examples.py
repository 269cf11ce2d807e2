"""The examples run, and do what they say."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from eft_ext.demo import model_path
from python_tests.helpers.embedded_trio import greedy
from python_tests.helpers.one_thread import one_thread as one_thread

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing"),
]


def test_pipeline(tmp_path):
    command = [sys.executable, str(EXAMPLES / "pipeline.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    text = "The ship was commanded by"
    asked = [[{"role": "user", "content": each}] for each in _imported("pipeline").QUESTIONS]
    chats = [
        line for chat in asked for line in (f"user: {chat[0]['content']}", f"assistant: {greedy(chat, 30).strip()}")
    ]
    assert done.stdout.splitlines() == [text + greedy(text, 30), *chats, text + greedy(text, 30, beta=0)]


@pytest.mark.parametrize("name", ["grpo", "online_dpo"])
def test_only_the_tuned_model_learns(name, monkeypatch, tmp_path):
    """And comes to what is rewarded."""
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    example = importlib.import_module(name)
    policy, tokenizer = example.load_policy()
    before = {key: weight.clone() for key, weight in policy.state_dict().items()}
    rewards = example.train(policy, tokenizer)
    moved = {key.partition(".")[0] for key, weight in policy.state_dict().items() if not weight.equal(before[key])}
    assert moved == {"tuned"}
    assert len(rewards) == 8
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.5


def _imported(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
