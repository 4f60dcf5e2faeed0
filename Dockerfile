# hguard's image. DEVICE=cpu: torch's CPU build and the transformers engine. DEVICE=cuda: torch's CUDA build and vLLM.
#
#   docker build --build-arg DEVICE=cpu --tag hguard:cpu .
#
# Every pin of a Python package is in pyproject.toml, the Makefile and deploy/install_vllm.py, which this file runs.
# It uses nothing that needs BuildKit.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Debian's stable release is the pin of make.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
ARG DEVICE=cpu
# Where pip looks beside its own configuration; empty is pip's default. They stay in this stage: neither a layer nor the
# history of the image that is served has them.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ARG PIP_FIND_LINKS=
ENV PIP_NO_CACHE_DIR=1
# The dependencies come before the code, so that a change of code does not install torch again.
COPY Makefile pyproject.toml ./
COPY deploy/install_vllm.py deploy/
RUN case "${DEVICE}" in cpu) cuda= ;; cuda) cuda=yes ;; *) echo "DEVICE is cpu or cuda" >&2; exit 1 ;; esac \
    && touch README.md \
    && make setup VENV=/opt/venv EXTRAS=otel,postgres HAS_CUDA="${cuda}" \
    && if [ -n "${cuda}" ]; then /opt/venv/bin/python deploy/install_vllm.py --device cuda; fi
COPY probes probes
COPY service service
RUN /opt/venv/bin/python -m compileall -q probes service

FROM ${PYTHON_IMAGE}
ARG DEVICE=cpu
# Triton, which vLLM compiles its kernels with, calls a C compiler when it serves.
# hadolint ignore=DL3008
RUN if [ "${DEVICE}" = cuda ]; then \
        apt-get update \
        && apt-get install --yes --no-install-recommends g++ \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --gid 10001 hguard \
    && useradd --uid 10001 --gid 10001 --home-dir /var/cache/hguard --no-create-home --shell /usr/sbin/nologin hguard \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/cache/hguard /var/lib/hguard /var/lib/hguard/probes
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
# The home is the cache volume, because models, compiled kernels and whatever else a library keeps can be had again. What
# cannot, labels and probes, is in the other volume. Nothing is written anywhere else but /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/var/cache/hguard \
    XDG_STATE_HOME=/var/lib/hguard \
    HGUARD_PROBES_DIR=/var/lib/hguard/probes \
    HGUARD_HOST=0.0.0.0 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TQDM_MININTERVAL=10 \
    VLLM_NO_USAGE_STATS=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
VOLUME ["/var/cache/hguard", "/var/lib/hguard"]
WORKDIR /app
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready, not only alive. The start is a model's download, its load and the golden trace; vLLM compiles, too.
HEALTHCHECK --interval=10s --timeout=10s --retries=3 --start-period=20m \
    CMD ["python", "-c", "import http.client, os; ask = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('HGUARD_PORT') or 8000), timeout=8); ask.request('GET', '/readyz'); raise SystemExit(ask.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "service"]
