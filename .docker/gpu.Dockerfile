# itx on NVIDIA GPUs. The libraries of CUDA come with JAX; the host has the driver and the NVIDIA Container Toolkit.
# From the top of a clone:
#     docker build -f .docker/gpu.Dockerfile -t itx-gpu .
#     docker run --rm --gpus all -u "$(id -u)" -e HOME=/work -v "$PWD:/work" itx-gpu train quickstart
FROM python:3.12.12-slim-bookworm

ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PATH=/opt/itx/.venv/bin:$PATH
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN pip install --no-cache-dir uv==0.13.9 && useradd --create-home itx

WORKDIR /opt/itx
# the libraries are a layer of their own, which a change of the code leaves as it is
COPY pyproject.toml README.md ./
RUN uv sync --no-cache --no-dev --extra cuda --no-install-project
COPY itx itx
COPY tasks tasks
COPY configs configs
RUN uv sync --no-cache --no-dev --extra cuda --no-editable

USER itx
WORKDIR /work
ENTRYPOINT ["itx"]
CMD ["--help"]
