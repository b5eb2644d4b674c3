# Servers, workers and stages: docker build -f infra/images/pipeline.Dockerfile -t mealrec-pipeline:0.1.0 .
FROM python:3.11.11-slim-bookworm

RUN apt-get update \
 && apt-get install --yes --no-install-recommends openjdk-17-jre-headless libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 mealrec \
 && mkdir /var/lib/mealrec && chown mealrec /var/lib/mealrec
ENV JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=1

WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY mealrec ./mealrec
COPY flows ./flows
COPY spark_jobs ./spark_jobs
# aisfx carries an encoder's weights and pins a numpy that nothing else can use: it is installed without its needs
# an index with CPU builds of torch, for an image without gigabytes of CUDA: --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir --constraint constraints.txt ".[servers]" "mlflow[auth]" \
 && pip install --no-cache-dir --constraint constraints.txt --no-deps aisfx
COPY prefect.yaml ./
COPY infra ./infra

USER mealrec
CMD ["mealrec", "--help"]
