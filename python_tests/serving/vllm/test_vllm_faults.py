"""One server under load, then without its engine: the other requests' answers stay right, and all slots come free."""

import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil
import pytest

from eft_ext.demo import checkpoint_path
from python_tests.helpers.embedded_trio import greedy
from python_tests.helpers.in_flight import LONG, InFlight, long_stream
from python_tests.helpers.served_trio import PROMPTS
from python_tests.helpers.vllm_server import serving

pytestmark = pytest.mark.slow

BETAS = (0.0, 0.5, 1.0, 2.5)
ASKED = [(prompt, beta) for prompt in PROMPTS for beta in BETAS]
UNREAD = 12  # streams of the client that never reads: more text than the sockets hold
MANY = 100  # streams that run and wait for a minute
FAILS = 5.0  # seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(checkpoint_path(), tmp_path_factory.mktemp("faults") / "log") as found:
        yield found


def ask(client, number, new=16):
    """The text of one of `ASKED`, streamed where the number is odd."""
    prompt, beta = ASKED[number % len(ASKED)]
    own = {"temperature": 0, "max_tokens": new, "extra_body": {"vllm_xargs": {"beta": beta}}}
    found = client.completions.create(model="trio", prompt=prompt, stream=bool(number % 2), **own)
    return "".join(part.choices[0].text for part in found) if number % 2 else found.choices[0].text


def until(condition, seconds):
    """True once the condition holds, within the time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def slots(server):
    return server.metric("vllm:num_requests_running") + server.metric("vllm:num_requests_waiting")


def never_reads(server, streams, logprobs=None):
    """A client that has sent a request for many streams, and reads none of them."""
    body = json.dumps({"model": "trio", "prompt": ["A"] * streams, "ignore_eos": True, "logprobs": logprobs, **LONG})
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    client.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def test_slots_come_free(server):
    """64 at once: each third stream is closed by its client, and one client never reads. The others are answered."""
    closed_early = set(range(0, 64, 3))
    client = server.client()

    def one(number):
        if number not in closed_early:
            return ask(client, number)
        stream = long_stream(client, BETAS[number % len(BETAS)])
        next(iter(stream))
        stream.close()
        return None

    before = server.metric("vllm:generation_tokens_total")
    with never_reads(server, UNREAD, 20):
        assert until(lambda: slots(server) > 0, 30)
        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(one, range(64)))
        assert until(lambda: slots(server) <= UNREAD, 30)
    for number in set(range(64)) - closed_early:
        prompt, beta = ASKED[number % len(ASKED)]
        assert found[number] == greedy(prompt, 16, beta), number
    assert until(lambda: slots(server) == 0, FAILS)
    whole = 230 * (len(closed_early) + UNREAD)
    assert server.metric("vllm:generation_tokens_total") - before < whole  # the closed ones did not go on to their end


def test_closing_frees_the_slots_of_one_that_never_reads(server):
    before = server.metric("vllm:generation_tokens_total")
    with never_reads(server, MANY):
        assert until(lambda: slots(server) > UNREAD, 30)
    assert until(lambda: slots(server) == 0, FAILS)
    assert server.metric("vllm:generation_tokens_total") - before < 230 * MANY / 2


def test_the_engine_is_killed(server):
    """Requests in flight fail, the server ends, and a client that tries again gets every answer from the next one."""
    client, answers = server.client(), {}

    def tries_again(number):
        while number not in answers and time.monotonic() < give_up:
            try:
                answers[number] = ask(client, number, 24)
            except openai.APIError:
                time.sleep(random.Random(number).uniform(0.2, 0.6))

    give_up = time.monotonic() + 200
    streams = InFlight(client)
    family = [engine := server.engine(), *engine.children(recursive=True)]
    again = [threading.Thread(target=tries_again, args=(number,), daemon=True) for number in range(len(ASKED))]
    engine.kill()
    streams.fail(FAILS)
    for thread in again:
        thread.start()
    server.process.wait(30)
    assert not psutil.wait_procs(family, 30)[1]
    assert not answers
    server.begin()
    server.ready()
    for thread in again:
        thread.join(60)
    assert answers == {number: greedy(prompt, 24, beta) for number, (prompt, beta) in enumerate(ASKED)}


def test_the_server_is_killed(server):
    """The last test of this server. Its engine ends too."""
    streams = InFlight(server.client())
    family = [engine := server.engine(), *engine.children(recursive=True)]
    server.process.kill()
    streams.fail(FAILS)
    assert not psutil.wait_procs(family, 30)[1]
