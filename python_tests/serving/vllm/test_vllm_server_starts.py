"""Servers that do not start: what cannot be served is named in the last line of the output, without a traceback."""

from contextlib import ExitStack

import pytest

from eft_ext.demo import checkpoint_path
from python_tests.helpers.vllm_server import Server

pytestmark = pytest.mark.slow


def test_refused_at_the_start(tmp_path):
    """They end by themselves, with an exit code that is not 0; both at once, since most of a start is imports."""
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text((checkpoint_path() / "config.json").read_text())
    cases = {
        "empty": (
            empty,
            (),
            f"large: expected config.json in {empty}/large-base, found none; pack the checkpoint again",
        ),
        "lora": (
            checkpoint_path(),
            ("--enable-lora",),
            "enable_lora: expected none for several models as one; merge adapters, then eft pack",
        ),
        "an option": (checkpoint_path(), ("--prot", "80"), "vllm: unrecognized arguments: --prot 80"),
        "a value": (
            checkpoint_path(),
            ("--max-model-len", "-7"),
            "vllm: max_model_len: Input should be greater than or equal to -1",
        ),
    }
    with ExitStack() as stack:
        started = {}
        for name, (folder, options, _) in cases.items():
            started[name] = Server(folder, tmp_path / f"{name}.log", *options)
            stack.callback(started[name].kill)
        for name, (_, _, line) in cases.items():
            said = started[name].refused()
            assert said.splitlines()[-1] == f"eft: {line}", name
            assert "Traceback" not in said, name
