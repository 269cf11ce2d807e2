"""An engine's process ends when its server is killed, also one that takes no SIGTERM; other processes go on."""

import subprocess
import sys
import time

import pytest

from eft_ext.serving.vllm import server_gone

# The module alone: with its package the process would import torch.
ENGINE = f"""
import os, signal, sys, time
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("server_gone", {server_gone.__file__!r})
module = module_from_spec(spec)
spec.loader.exec_module(module)
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
module.end_with_server(0.02, 0.2)
print("ready", flush=True)
time.sleep(0.5 if sys.argv[1] == "another's" else 60)
print("awake", flush=True)
"""
SERVER = f"""
import os, subprocess, sys, time
if sys.argv[2] != "another's":
    os.environ["{server_gone.SERVER}"] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("engine", "said"), [("polite", ""), ("deaf", ""), ("another's", "awake\n")], ids=["polite", "deaf", "other"]
)
def test_an_engine_ends_with_its_server(engine, said):
    command = [sys.executable, "-c", SERVER, ENGINE, engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == "ready\n"
        server.kill()
        start = time.monotonic()
        assert server.stdout.read() == said  # up to the end of the engine, which has the pipe too
        assert time.monotonic() - start < 20
