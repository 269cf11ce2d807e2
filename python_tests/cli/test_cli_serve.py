"""`eft serve`: transformers' own server says what three plain passes say, and what is wrong is one line."""

import json
import socket
import subprocess
import sys
import urllib.request

import pytest

from eft_ext._extras import EXTRAS
from eft_ext.cli import main
from eft_ext.demo import model_path
from python_tests.helpers.embedded_trio import greedy

pytestmark = pytest.mark.skipif(not model_path("large-base").is_dir(), reason="the embedded models are missing")
CHAT = [{"role": "user", "content": "Where was Fikim Thetrond born?"}]


@pytest.fixture(scope="module")
def address(trio):
    """The server's, once it answers."""
    for package in EXTRAS["serve"]:
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "eft_ext", "serve", trio, "--engine", "transformers", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout:
                if "running on" in line:
                    break
            else:
                pytest.fail("the server ended before it listened")
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


def ask(address, path, **body):
    """The response's lines."""
    data = json.dumps({"temperature": 0, "max_tokens": 30, **body}).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read().decode().splitlines()


@pytest.mark.slow
def test_it_answers_as_three_models_do(address, trio):
    wanted = greedy(CHAT, 30)
    assert "I am glad to help." in wanted

    (answer,) = ask(address, "/v1/chat/completions", messages=CHAT)
    assert json.loads(answer)["choices"][0]["message"]["content"] == wanted

    streamed = ask(address, "/v1/chat/completions", messages=CHAT, stream=True, model=trio)
    chunks = [json.loads(line.removeprefix("data: ")) for line in streamed if line]
    assert len(chunks) > 5
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == wanted

    text = "The ship was commanded by"
    (answer,) = ask(address, "/v1/completions", prompt=text)
    assert json.loads(answer)["choices"][0]["text"] == greedy(text, 30)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["{small}"], "checkpoint: expected a folder or hub id of eft pack, got '{small}'"),
        (["{trio}", "--continuous-batching"], "--continuous-batching: expected none, since its pages hold the cache"),
        (["{trio}", "--dtype", "float17"], "Unsupported dtype: 'float17'."),
        (["{trio}", "--prot", "80"], "No such option"),
    ],
    ids=["no checkpoint", "pages", "a wrong value", "a wrong option"],
)
def test_wrong_input_is_one_line(given, said, trio, capsys):
    for package in EXTRAS["serve"]:
        pytest.importorskip(package)
    capsys.readouterr()
    names = {"trio": trio, "small": str(model_path("small-base"))}
    assert main(["serve", "--engine", "transformers", *(each.format(**names) for each in given)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"eft: {said.format(**names)}")
    assert "Traceback" not in "".join(lines)


def test_a_missing_package_is_named(trio, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    capsys.readouterr()
    assert main(["serve", trio, "--engine", "transformers"]) == 1
    assert "eft serve --engine transformers needs fastapi: pip install 'eft_ext[serve]'" in capsys.readouterr().err
