# w2s serve in a container: docs/serve.md.
#   docker build -t w2s .
#   docker run -p 8080:8080 -e OPENAI_API_KEY -v ./aligner:/aligner:ro w2s --upstream https://HOST/v1 --aligner /aligner
# The version that the tests run on.
FROM python:3.11-slim

# DeepSpeed and torch.compile want a compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/w2s
COPY pyproject.toml README.md LICENSE ./
# torch first and pinned, as in .ci/install. TORCH_INDEX names another package index, such as PyTorch's for CPU builds.
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep -o 'torch==[0-9.]*' pyproject.toml)"
COPY aligner_core aligner_core
COPY w2s w2s
COPY ida ida
COPY analysis analysis
COPY recipes recipes
RUN pip install --no-cache-dir '.[serve]'

# By number, so that an orchestrator can tell that it is not root.
RUN useradd --create-home --uid 1000 w2s
USER 1000
WORKDIR /home/w2s
EXPOSE 8080
# Of the port below: publish it under another number (-p 9000:8080) instead of changing it.
HEALTHCHECK --start-period=5m CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/health', timeout=5)"]
ENTRYPOINT ["w2s", "serve", "--host", "0.0.0.0", "--port", "8080"]
CMD ["--help"]
