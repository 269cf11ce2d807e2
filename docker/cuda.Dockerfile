# The server on NVIDIA GPUs, built from the root of the repository: docker build -f docker/cuda.Dockerfile -t eft:cuda .
# vLLM's own image has the packages, CUDA 13.0 and compilers that this vLLM was released with. The wheel is built in the
# same image, so that its Python, C library and CUDA are those that it runs with.
FROM vllm/vllm-openai:v0.32.0 AS base

FROM base AS build
# The image's nvcc compiles kernels at run time; a build wants CUDA's static runtime and a compiler for the host too.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ cuda-nvcc-13-0 cuda-cudart-dev-13-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Without nvcc the wheel would have no kernels for GPUs, and no error would say so.
RUN nvcc --version && python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM base
# Copied, since the cache of a builder may not see that a mounted wheel has changed.
COPY --from=build /wheels /tmp/wheels
# vLLM's packages stay as they are where they fit; `cli` is what `eft` itself needs.
RUN uv pip install --system --no-cache "$(echo /tmp/wheels/*.whl)[cli,vllm]"

# The caches of vLLM and of the Hugging Face hub are in .cache; a volume there starts with this owner.
RUN useradd --create-home --uid 10001 eft && install -d -o eft -g eft /home/eft/.cache
USER 10001
WORKDIR /home/eft
ENV VLLM_NO_USAGE_STATS=1
EXPOSE 8000
# Large models load for minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["eft", "serve"]
CMD ["/models/trio", "--host", "0.0.0.0", "--port", "8000"]
