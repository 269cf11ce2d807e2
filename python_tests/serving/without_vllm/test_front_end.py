"""The server in front of the engine: one that checks no parameters would hand a bad one to the engine, which ends."""

import pytest

from eft_ext.serving.vllm.checks import check_front_end


def test_the_front_end_in_rust_is_refused(monkeypatch):
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND", raising=False)
    check_front_end()
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "0")
    check_front_end()
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(ValueError, match="^VLLM_USE_RUST_FRONTEND: expected 0 for several models as one, got 1$"):
        check_front_end()
