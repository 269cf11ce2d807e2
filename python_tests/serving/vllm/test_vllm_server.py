"""The OpenAI server over a checkpoint of several models, by the official client: answers as the naive loop's."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import jsonschema
import openai
import pytest
import torch

from eft_ext.demo import checkpoint_path
from python_tests.helpers import dashboard, naive
from python_tests.helpers.embedded_trio import answer, ids_of, parts, text_of
from python_tests.helpers.in_flight import InFlight
from python_tests.helpers.vllm_server import serving

pytestmark = pytest.mark.slow

CLOSED = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
QUESTION = "Question: What does the town of Tonin trade in?\nAnswer:"
PROMPTS = ("The quick", "A", "Harbour of Tonin", QUESTION, "The ship was commanded by", "where")
BETAS = (None, 0, 0.5, 1.0, 2.5)
CHAT = [{"role": "user", "content": "What does the town of Tonin trade in?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "town": {"enum": ["Tonin", "Neisos", "Nepos"]},
        "year": {"type": "string", "pattern": "^1[0-9]{3}$"},
        "ships": {"type": "integer", "minimum": 0, "maximum": 99},
        "trades": {"type": "array", "items": {"enum": ["wool", "salt"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["town", "year", "ships", "trades"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(checkpoint_path(), tmp_path_factory.mktemp("server") / "log", *CLOSED) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def own(beta):
    """The fields of a request for a beta of its own."""
    return {} if beta is None else {"extra_body": {"vllm_xargs": {"beta": beta}}}


def complete(client, prompt, beta=None, **options):
    return client.completions.create(
        model="trio", prompt=prompt, **{"max_tokens": 16, "temperature": 0, **own(beta), **options}
    )


def test_completions(client):
    """Several prompts in one request, at each beta: the text, why it ended and the counts."""
    for beta in BETAS:
        found = complete(client, list(PROMPTS), beta)
        wanted = [answer(ids_of(prompt), beta) for prompt in PROMPTS]
        assert [each.text for each in found.choices] == [text_of(tokens) for tokens in wanted]
        assert [each.finish_reason == "stop" for each in found.choices] == [0 in tokens for tokens in wanted]
        assert found.usage.prompt_tokens == sum(len(ids_of(prompt)) for prompt in PROMPTS)
        assert found.usage.completion_tokens == sum(map(len, wanted))
    assert len({len(answer(ids_of(QUESTION), beta)) for beta in BETAS}) > 1  # some end before max_tokens


@pytest.mark.parametrize("beta", BETAS)
def test_chat(client, beta):
    """The template of the checkpoint, and the end of an answer."""
    tokens = answer(ids_of(CHAT), beta, 40)
    asked = {"model": "trio", "messages": CHAT, "temperature": 0, "max_tokens": 40, **own(beta)}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == text_of(tokens)
    assert whole.choices[0].finish_reason == "stop"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(ids_of(CHAT)), len(tokens))
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(each.choices[0].delta.content or "" for each in pieces if each.choices) == text_of(tokens)
    assert pieces[-1].usage == whole.usage


def test_concurrent_mixed_requests(client):
    """Twice as many at once as there are slots: whole and streamed, with betas of their own."""

    def one(asked):
        prompt, beta, stream = asked
        found = complete(client, prompt, beta, stream=stream)
        return "".join(each.choices[0].text for each in found) if stream else found.choices[0].text

    asked = [(prompt, beta, stream) for prompt in PROMPTS for beta in BETAS for stream in (False, True)]
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, asked))
    assert found == [text_of(answer(ids_of(prompt), beta)) for prompt, beta, _ in asked]


@pytest.mark.parametrize("beta", [None, 0.5])
def test_logprobs(client, beta):
    """They are the mixture's at the request's beta; echoed, of the prompt too."""
    ids = ids_of(QUESTION)
    found = complete(client, QUESTION, beta, max_tokens=4, logprobs=3).choices[0].logprobs
    tokens = answer(ids, beta)[:4]
    logits = naive.logits(parts()[0], (*ids, *tokens))
    expected = naive.up_scaled(1.0 if beta is None else beta)(*logits).log_softmax(-1)
    here = expected[len(ids) - 1 : -1]
    wanted = [float(row[token]) for row, token in zip(here, tokens, strict=True)]
    assert found.token_logprobs == pytest.approx(wanted, abs=1e-4)
    for row, top in zip(here, found.top_logprobs, strict=True):
        assert sorted(top.values()) == pytest.approx(row.topk(len(top)).values.flip(0).tolist(), abs=1e-4)
    if beta is None:
        echoed = complete(client, QUESTION, max_tokens=4, logprobs=1, echo=True).choices[0]
        assert echoed.text == QUESTION + text_of(tokens)
        all_ids = torch.tensor((*ids, *tokens))[1:, None]
        wanted = expected[:-1].gather(1, all_ids)[:, 0].tolist()
        assert echoed.logprobs.token_logprobs[0] is None
        assert echoed.logprobs.token_logprobs[1:] == pytest.approx(wanted, abs=1e-4)


def test_several_answers_seeds_and_stop_strings(client):
    drawn = {"n": 4, "temperature": 2.0, "seed": 5, "max_tokens": 24}
    first, again = ([each.text for each in complete(client, QUESTION, 0.5, **drawn).choices] for _ in range(2))
    assert first == again
    assert len(set(first)) > 2
    wanted = text_of(answer(ids_of(QUESTION)))
    (stopped,) = complete(client, QUESTION, stop=["asking"]).choices
    assert (stopped.text, stopped.finish_reason) == (wanted[: wanted.index("asking")], "stop")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"vllm_xargs": {"beta": "x"}', "beta: expected a finite number, got 'x'"),
        ('"vllm_xargs": {"beta": "0.5"}', "beta: expected a finite number, got '0.5'"),
        ('"vllm_xargs": {"beta": [0.5]}', "beta: expected a finite number, got [0.5]"),
        ('"vllm_xargs": {"beta": NaN}', "beta: expected a finite number, got nan"),
        ('"vllm_xargs": {"beta": -Infinity}', "beta: expected a finite number, got -inf"),
        ('"vllm_xargs": {"beta": 1e400}', "beta: expected a finite number, got inf"),
        ('"vllm_xargs": {"beta": 1e39}', "beta: expected a finite number, got 1e+39"),
        ('"vllm_xargs": {"betta": 1}', "betta: not a parameter of UpScale, which has beta"),
        (
            '"vllm_xargs": {"beta": 0.5}, "echo": true, "logprobs": 1',
            "beta: expected none beside prompt_logprobs under vLLM's V1 model runner; V2 takes both",
        ),
    ],
    ids=["word", "text", "list", "nan", "infinity", "too-large", "beyond-fp32", "unknown", "prompt-logprobs"],
)
def test_bad_requests(server, client, fields, message):
    """HTTP 400 with one line; as a stream, whose head is out by then, one event. The next one is answered."""
    headers = {"Content-Type": "application/json"}
    for path, given in (("completions", '"prompt": "A"'), ("chat/completions", f'"messages": {json.dumps(CHAT)}')):
        if path != "completions" and "echo" in fields:
            continue
        body = f'{{"model": "trio", {given}, "max_tokens": 2, {fields}'
        found = httpx.post(f"{server.url}/v1/{path}", content=f"{body}}}", headers=headers, timeout=30)
        assert (found.status_code, found.json()["error"]["message"]) == (400, message)
        found = httpx.post(f"{server.url}/v1/{path}", content=f'{body}, "stream": true}}', headers=headers, timeout=30)
        event, end, _ = found.text.split("\n\n")
        error = json.loads(event.removeprefix("data: "))["error"]
        assert (error["code"], error["message"], end) == (400, message, "data: [DONE]")
    assert complete(client, "A", 0.5).choices[0].text == text_of(answer(ids_of("A"), 0.5))


def test_the_client_raises_bad_request(client):
    with pytest.raises(openai.BadRequestError, match=r"betta: not a parameter of UpScale, which has beta"):
        complete(client, "A", extra_body={"vllm_xargs": {"betta": 1}})


def test_a_json_schema_closes(client):
    """At every beta and temperature, many at once: the answer is of the schema, as is what regular expressions ask."""
    kinds = {
        "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "town", "schema": SCHEMA}}},
        "regex": {"structured_outputs": {"regex": "(Tonin|Neisos) was 1[0-9]{3}"}},
        "choice": {"structured_outputs": {"choice": ["wool", "salt"]}},
    }

    def one(asked):
        kind, beta, temperature = asked
        body = {**kinds[kind], **own(beta).get("extra_body", {})}
        rest = {"temperature": temperature, "max_tokens": 120, "seed": 3}
        return client.chat.completions.create(model="trio", messages=CHAT, extra_body=body, **rest).choices[0]

    asked = [(kind, beta, temperature) for kind in kinds for beta in BETAS for temperature in (0, 0.7, 1.5)]
    with ThreadPoolExecutor(32) as pool:
        found = dict(zip(asked, pool.map(one, asked), strict=True))
    for (kind, *_), each in found.items():
        assert each.finish_reason == "stop"
        if kind == "schema":
            jsonschema.validate(json.loads(each.message.content), SCHEMA)
        elif kind == "choice":
            assert each.message.content in ("wool", "salt")
        else:
            assert each.message.content[:-4] in ("Tonin was ", "Neisos was ")
            assert each.message.content[-4:].isdigit()
    assert len({each.message.content for each in found.values()}) > 10


def test_metrics_of_the_dashboard(server, client):
    """All that docker/grafana/eft.json plots is there, but for drafts."""
    complete(client, QUESTION)
    for name in dashboard.METRICS:
        if not name.startswith(dashboard.WITH_DRAFTS):
            server.metric(name)


def test_killed_and_restarted(server, client, tmp_path):
    """The last test of this server: requests in flight fail at once; another server answers as before."""
    streams = InFlight(client)
    server.kill()
    streams.fail(5)
    with pytest.raises(openai.APIConnectionError):
        complete(client, "A")
    with serving(checkpoint_path(), tmp_path / "log") as again:
        assert again.metric("vllm:prefix_cache_queries_total") == 0
        for beta in BETAS:
            found = [each.text for each in complete(again.client(), list(PROMPTS), beta).choices]
            assert found == [text_of(answer(ids_of(prompt), beta)) for prompt in PROMPTS]
