"""Files of `docker/`: they name files, versions, services and metrics that exist, and publish no port to the world."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from eft_ext.serving.vllm.names import TESTED
from python_tests.helpers.dashboard import METRICS, PANELS

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ("cpu.Dockerfile", "cuda.Dockerfile")
# Copied from /metrics of vLLM 0.32.0, those of drafts from a server with speculation.
OF_VLLM = {
    "http_requests_total",
    "vllm:generation_tokens_total",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prompt_tokens_total",
    "vllm:request_success_total",
    "vllm:spec_decode_num_accepted_tokens_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:time_to_first_token_seconds_bucket",
}


class Loader(yaml.SafeLoader):
    """YAML with the tag that takes away a value of the file before."""


Loader.add_constructor("!reset", lambda loader, node: None)


@cache
def text(name):
    return (DOCKER / name).read_text(encoding="utf-8").replace("\\\n", " ")


@cache
def read(name):
    return yaml.load(text(name), Loader)


def instructions(name, word):
    return re.findall(rf"^{word} +(.*)$", text(name), re.M)


def test_vllm_is_the_version_that_is_tested():
    image = f"vllm/vllm-openai:v{TESTED[-1]} AS base"
    assert instructions("cuda.Dockerfile", "FROM") == [image, "base AS build", "base"]
    requirements = (ROOT / "python_tests/serving/requirements.txt").read_text(encoding="utf-8")
    assert f"\nvllm-cpu=={TESTED[-1]}\n" in requirements
    (python,) = re.findall(r"for Python ([\d.]+)", requirements)
    assert instructions("cpu.Dockerfile", "FROM")[0].startswith(f"python:{python}-slim-")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_dockerfile(name):
    """Both images start the same command as nobody special, and copy files that the context has."""
    assert instructions(name, "ENTRYPOINT") == ['["eft", "serve"]']
    (command,) = map(json.loads, instructions(name, "CMD"))
    assert read("compose.yaml")["services"]["server"]["command"][: len(command)] == command
    assert instructions(name, "USER") == re.findall(r"--uid (\d+)", text(name)) != ["0"]
    for copied in instructions(name, "COPY"):
        for file in () if copied.startswith("--from=build ") else copied.split()[:-1]:
            assert (ROOT / file).exists(), file
            assert file == "." or not ignored(file), file


@pytest.mark.parametrize("name", DOCKERFILES)
def test_health_check(name):
    """Exit code 0 for HTTP 200 alone."""
    (options, command) = instructions(name, "HEALTHCHECK")[0].split(" CMD ")
    assert "--start-period=" in options
    for status in (200, 503):
        with HTTPServer(("127.0.0.1", 0), answering(status)) as server:
            python, *rest = json.loads(command)
            here = [sys.executable, *(each.replace("8000", str(server.server_port)) for each in rest)]
            thread = Thread(target=server.handle_request)
            thread.start()
            code = subprocess.run(here, timeout=30).returncode
            thread.join()
        assert (python, code) == ("python3", int(status != 200))
    assert subprocess.run(here, stderr=subprocess.DEVNULL, timeout=30).returncode != 0  # nobody listens


def answering(status):
    """A handler with one answer to `/health`, and none to other paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    return Handler


def ignored(path):
    """The rule of .dockerignore: the last pattern that fits a path or a folder above it decides."""
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    found = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and any(fits(each, pattern) for each in above):
            found = not line.startswith("!")
    return found


def fits(path, pattern):
    if pattern.startswith("**/"):
        return fnmatch(path.rsplit("/", 1)[-1], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def test_context_has_what_the_build_reads():
    patterns = ("*.py", "*.toml", "CMakeLists.txt", "LICENSE", "README.md", "eft_ext/**/*.py", "eft_ext/**/*.json")
    files = {str(path.relative_to(ROOT)) for pattern in (*patterns, "csrc/**/*.*") for path in ROOT.glob(pattern)}
    files = {name for name in files if not name.startswith(("csrc/tests/", "csrc/emulator/"))}
    assert {"setup.py", "csrc/libeft.cmake", "eft_ext/demo/models/config.json"} <= files
    assert {name for name in files if ignored(name)} == set()


NOT_IN_CONTEXT = (
    *(".git/config", ".venv/bin/python", "build/core/libeft.so", "eft_ext/libeft.so", "eft_ext/__pycache__/x.pyc"),
    *("csrc/tests/main.cpp", "docker/.env", "models/trio/large/model.safetensors"),
)


@pytest.mark.parametrize("path", NOT_IN_CONTEXT)
def test_context_has_nothing_else(path):
    assert ignored(path)


def test_compose():
    """Every file is there, every image has a version, every port is this machine's alone."""
    services = read("compose.yaml")["services"]
    builds = [
        service["build"]["dockerfile"]
        for service in (services["server"], read("compose.cpu.yaml")["services"]["server"])
    ]
    assert builds == [f"docker/{name}" for name in reversed(DOCKERFILES)]
    for name, service in services.items():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in read("compose.yaml")["volumes"] or source.startswith("$") or (DOCKER / source).is_file()
    assert not re.search(r"(?i)(key|password): (?!\$\{\w+:\?)", text("compose.yaml"))  # given at the start, or none


def test_services_find_each_other():
    services = read("compose.yaml")["services"]
    scraping = read("prometheus.yml")
    (job,) = scraping["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    (source,) = read("grafana/datasource.yml")["datasources"]
    for address in (target, source["url"].removeprefix("http://")):
        service, port = address.split(":")
        assert services[service]["ports"][0].endswith(f":{port}")
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    (provider,) = read("grafana/dashboards.yml")["providers"]
    assert f"./grafana/eft.json:{provider['options']['path']}/eft.json:ro" in services["grafana"]["volumes"]


def test_dashboard():
    assert set(METRICS) == OF_VLLM
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
