"""`eft serve` as its guide shows it: the guide's requests, a key, drafts, and a stop that lets requests finish."""

import contextlib
import io
import json
import subprocess

import pytest
from openai import AuthenticationError

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
    """Streams in flight at SIGTERM come to their end. Drafts leave the text as it is, and all are counted."""
    flags = ("--speculate", "3", "--shutdown-timeout", "50")
    with serving(checkpoint_path(), tmp_path / "log", *flags, VLLM_API_KEY=KEY) as server:
        for key in ("none", "other"):
            with pytest.raises(AuthenticationError):
                server.client(key).models.list()
        client = server.client(KEY)
        asked = {"model": "trio", "messages": CHAT, "temperature": 0}
        found = client.chat.completions.create(**asked, max_tokens=30).choices[0].message.content
        assert found == text_of(answer(ids_of(CHAT), 1.0, 30))
        drafts, accepted = (
            server.metric(f"vllm:spec_decode_num_{name}_tokens_total") for name in ("draft", "accepted")
        )
        assert drafts >= accepted > 0
        long = {"max_tokens": 200, "stream": True, "extra_body": {"ignore_eos": True}}
        streams = [client.chat.completions.create(**asked, **long) for _ in range(2)]
        begun = [next(stream) for stream in streams]
        assert not any(each.choices[0].finish_reason for each in begun)
        server.process.terminate()
        for stream in streams:
            *_, last = stream
            assert last.choices[0].finish_reason == "length"
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.text()
