# The server on CPUs, built from the root of the repository: docker build -f docker/cpu.Dockerfile -t eft:cpu .
# Python 3.11, since python_tests/serving/requirements.txt pins a set that is tested with it.
FROM python:3.11-slim-bookworm AS base
# vLLM's library links libnuma, and torch.compile calls g++ when the server starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM base
# Set it to PyTorch's index of CPU wheels: the wheel elsewhere brings gigabytes of CUDA.
ARG PIP_EXTRA_INDEX_URL
COPY constraints.txt python_tests/serving/requirements.txt /tmp/
RUN pip install --no-cache-dir -c /tmp/constraints.txt torch \
    && pip install --no-cache-dir --no-deps -r /tmp/requirements.txt
# Copied, since the cache of a builder may not see that a mounted wheel has changed.
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir --no-deps /tmp/wheels/*.whl

# The caches of vLLM and of the Hugging Face hub are in .cache; a volume there starts with this owner.
RUN useradd --create-home --uid 10001 eft && install -d -o eft -g eft /home/eft/.cache
USER 10001
WORKDIR /home/eft
# Threads bound to cores would want privileges that a container lacks. The cache of keys and values has 4 GiB.
ENV VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=4 VLLM_NO_USAGE_STATS=1
EXPOSE 8000
# Large models load for minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["eft", "serve"]
CMD ["/models/trio", "--host", "0.0.0.0", "--port", "8000"]
