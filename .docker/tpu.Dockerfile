# itx on the TPUs of a GKE cluster (tpu/README.md): libtpu comes with JAX. From the top of a clone:
#     docker build -f .docker/tpu.Dockerfile -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/itx-tpu .
#     docker push REGION-docker.pkg.dev/PROJECT/REPOSITORY/itx-tpu
FROM python:3.12.12-slim-bookworm

ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 PATH=/opt/itx/.venv/bin:$PATH
RUN pip install --no-cache-dir uv==0.13.9 && useradd --create-home itx

WORKDIR /opt/itx
# the libraries are a layer of their own, which a change of the code leaves as it is
COPY pyproject.toml README.md ./
RUN uv sync --no-cache --no-dev --extra tpu --extra cloud --no-install-project
COPY itx itx
COPY tasks tasks
COPY configs configs
RUN uv sync --no-cache --no-dev --extra tpu --extra cloud --no-editable

USER itx
WORKDIR /work
ENTRYPOINT ["itx"]
CMD ["--help"]
