"""A vLLM that lacks a name: one clear error for who wants it, a warning for everybody else."""

import importlib.util
import sys
from types import ModuleType

import pytest

from eft_ext.serving.vllm import names, register

WORKS = r"this eft_ext works with vLLM 0\.32\.0"


@pytest.fixture(autouse=True)
def another(monkeypatch):
    """A vLLM of version 9.9 with next to nothing in it, in place of the installed one if any."""
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        monkeypatch.delitem(sys.modules, name)
    package = ModuleType("vllm")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "vllm", package)
    for name in [name for name in names._PLACES if name in vars(names)]:
        monkeypatch.delitem(vars(names), name)
    monkeypatch.setattr(names, "version", lambda package: "9.9.0+cpu")
    return package


def test_a_place_that_is_gone():
    with pytest.raises(ImportError, match=rf"^vLLM 9\.9\.0 has no vllm\.ModelRegistry; {WORKS}$"):
        _ = names.ModelRegistry
    with pytest.raises(
        ImportError, match=rf"^vLLM 9\.9\.0 has no vllm\.v1\.worker\.gpu\.sample\.sampler\.Sampler; {WORKS}$"
    ):
        _ = names.Sampler


def test_a_member_that_is_gone(monkeypatch):
    config = ModuleType("vllm.config")
    config.VllmConfig = type("VllmConfig", (), {"use_v2_model_runner": True, "with_hf_config": None})
    monkeypatch.setitem(sys.modules, "vllm.config", config)
    with pytest.raises(ImportError, match=r"^vLLM 9\.9\.0 has no vllm\.config\.VllmConfig\.get_quantization_config; "):
        _ = names.VllmConfig
    config.VllmConfig.get_quantization_config = None
    assert names.VllmConfig is config.VllmConfig


def test_a_name_that_is_none_of_ours():
    with pytest.raises(AttributeError, match="has no attribute 'LLM'"):
        _ = names.LLM


def test_the_check_names_the_first_that_is_gone():
    with pytest.raises(ImportError, match=WORKS):
        names.check(v2=True)


def test_another_version_with_all_names_is_a_warning(monkeypatch):
    for name in names._PLACES:
        if name not in names._V2:
            monkeypatch.setitem(vars(names), name, object())
    with pytest.warns(UserWarning, match=r"^eft_ext: vLLM 9\.9\.0 is not one that this eft_ext was tested with: 0\.32"):
        names.check(v2=False)
    with pytest.raises(ImportError, match=WORKS):
        names.check(v2=True)


def test_the_entry_point_stops_no_other_engine():
    with pytest.warns(UserWarning, match=rf"^eft_ext: checkpoints of several models cannot be served: .*; {WORKS}$"):
        register.__wrapped__()


def test_a_version_that_nobody_knows(monkeypatch):
    def missing(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(names, "version", missing)
    assert names.installed() == "of unknown version"
