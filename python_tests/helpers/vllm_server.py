"""vLLM's OpenAI server in processes of its own, for tests: every wait has a deadline, nothing outlives its test."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from openai import OpenAI

from eft_ext.hf.checkpoint.read import is_checkpoint

READY, END = 240.0, 60.0  # seconds; a start takes some 30 s of two cores
OPTIONS = ("--dtype", "float32", "--max-model-len", "256", "--block-size", "32", "--max-num-seqs", "16")
# Of the test's own process, whose engines run inside it.
_NOT_INHERITED = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_USE_V2_MODEL_RUNNER", "TRITON_INTERPRET")


def command_line(folder: str | Path, port: int, *options: str) -> list[str]:
    """`eft serve` of a checkpoint, or vLLM's own command for one model, which is served as `trio`."""
    eft = ["-m", "eft_ext", "serve", str(folder), "--engine", "vllm"]
    vllm = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command = [sys.executable, "-W", "ignore", *(eft if is_checkpoint(folder, {}) else vllm)]
    command += ["--served-model-name", "trio", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    return [*command, *OPTIONS, *options]


def metric(url: str, name: str) -> float:
    """The sum of a server's metric over its labels."""
    lines = httpx.get(f"{url}/metrics", timeout=10).text.splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    assert found, name
    return sum(found)


class Server:
    """One server on a free port of loopback.

    Args:
        folder: the model's.
        log: the file that its output goes to.
        options: further ones of its command line.
        environment: variables beside the test's own.
    """

    def __init__(self, folder: str | Path, log: Path, *options: str, **environment: str) -> None:
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = command_line(folder, port, *options)
        self.environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        self.environment |= environment
        self.begin()

    def begin(self) -> None:
        """Starts it, or, once it has ended, the same one again on its port."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )

    def ready(self) -> "Server":
        """Waits until it takes requests."""
        until = time.monotonic() + READY
        while self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return self
            time.sleep(0.2)
        self.kill()
        raise AssertionError(f"the server did not start:\n{self.text()[-4000:]}")

    def refused(self) -> str:
        """The output of one that ends by itself, with an error."""
        try:
            assert self.process.wait(READY) not in (0, None)
        finally:
            self.kill()
        return self.text()

    def kill(self) -> None:
        """SIGKILL for it and its engine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(END)

    def stop(self) -> None:
        """Ends it as a service manager does."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END)
        self.kill()

    def engine(self) -> psutil.Process:
        """The process of its engine."""
        children = psutil.Process(self.process.pid).children()
        found = [child for child in children if child.cmdline()[0] == "VLLM::EngineCore"]
        assert len(found) == 1, found
        return found[0]

    def text(self) -> str:
        """Its output up to now."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def client(self, api_key: str = "none") -> OpenAI:
        """The official client, which tries once."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return metric(self.url, name)


@contextlib.contextmanager
def serving(folder: str | Path, log: Path, *options: str, **environment: str) -> Iterator[Server]:
    """A server that takes requests, for as long as the context lasts."""
    server = Server(folder, log, *options, **environment)
    try:
        yield server.ready()
    finally:
        server.stop()
