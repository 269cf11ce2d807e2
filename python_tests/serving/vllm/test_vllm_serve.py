"""`eft serve` as its guide shows it: the guide's requests, a key, drafts, and a stop that lets requests finish."""

import contextlib
import io
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from eft_ext.demo import checkpoint_path
from python_tests.docs.pages import BLOCKS
from python_tests.helpers.embedded_trio import answer, ids_of, text_of
from python_tests.helpers.vllm_server import serving

pytestmark = pytest.mark.slow

PAGE, ADDRESS, KEY = "docs/guides/serve.md", "http://localhost:8080", "secret"
CLOSED = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
CHAT = [{"role": "user", "content": "Where was Fikim Thetrond born?"}]


def test_the_guide(tmp_path):
    with serving(checkpoint_path(), tmp_path / "log", *CLOSED) as server:
        blocks = [(kind, block.replace(ADDRESS, server.url)) for kind, block in BLOCKS[PAGE]]
        curls = [block for kind, block in blocks if not kind and block.startswith("curl")]
        plain, closed = (json.loads(subprocess.check_output(["bash", "-c", block])) for block in curls)
        assert plain["choices"][0]["message"]["content"] == text_of(answer(ids_of(CHAT), 1.0, 30))
        assert json.loads(closed["choices"][0]["message"]["content"])["goods"] in ("wool", "salt", "timber")
        (code,) = (block for kind, block in blocks if kind == "python")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, PAGE, "exec"), {})
        assert out.getvalue() == text_of(answer(ids_of(CHAT), 0.5, 30)) + "\n"


def test_a_key_drafts_and_a_graceful_stop(tmp_path):
    """Requests in flight at SIGTERM are answered whole. Drafts leave the text as it is, and all are counted."""
    flags = ("--speculate", "3", "--shutdown-timeout", "50")
    with serving(checkpoint_path(), tmp_path / "log", *flags, VLLM_API_KEY=KEY) as server, ThreadPoolExecutor() as pool:
        headers = {"Authorization": f"Bearer {KEY}"}

        def ask(headers, **body):
            body = {"messages": CHAT, "temperature": 0, "max_tokens": 30, **body}
            return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)

        assert ask({}).status_code == 401
        assert ask({"Authorization": "Bearer other"}).status_code == 401
        found = ask(headers).json()["choices"][0]["message"]["content"]
        assert found == text_of(answer(ids_of(CHAT), 1.0, 30))
        drafts, accepted = (
            server.metric(f"vllm:spec_decode_num_{name}_tokens_total") for name in ("draft", "accepted")
        )
        assert drafts >= accepted > 0
        long = {"max_tokens": 200, "ignore_eos": True}
        asked = [pool.submit(ask, headers, **long) for _ in range(8)]
        while server.metric("vllm:num_requests_running") == 0:
            assert not all(each.done() for each in asked)
        server.process.terminate()
        answers = [each.result() for each in asked]
        assert [each.status_code for each in answers] == [200] * 8
        assert {each.json()["usage"]["completion_tokens"] for each in answers} == {200}
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.text()
