"""Several engines in one process, one after another: requests are checked against those that live."""

from types import SimpleNamespace

import pytest

from eft_ext.methods import UpScale
from eft_ext.serving.vllm import parameters
from eft_ext.serving.vllm.parameters import Served, check_request, ended, serve


@pytest.fixture(autouse=True)
def _no_engines(monkeypatch):
    monkeypatch.setattr(parameters, "_served", {})


def asking(**extra):
    return SimpleNamespace(extra_args=extra, prompt_logprobs=None)


def test_an_engine_that_has_ended_checks_no_requests():
    serve("one", Served(UpScale(1.0), v2=False))
    check_request(asking(beta=0.5), None)
    with pytest.raises(ValueError, match="other: not a parameter of UpScale, which has beta"):
        check_request(asking(other="x"), None)
    ended("one")
    ended("one")
    check_request(asking(other="x"), None)  # of an ordinary model


def test_the_next_engine_does_not_inherit_what_the_last_one_took():
    serve("one", Served(UpScale(1.0), v2=True))
    serve("two", Served(UpScale(1.0), v2=False, speculates=True))
    check_request(asking(beta=0.5), "one")
    for engine in ("two", None):
        with pytest.raises(ValueError, match="beta: expected none beside speculation"):
            check_request(asking(beta=0.5), engine)
