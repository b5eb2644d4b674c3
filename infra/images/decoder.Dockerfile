# The decoder's child alone, for videos of strangers: no network, no shell tools needed, nothing of ours but a few files.
#   docker build -f infra/images/decoder.Dockerfile -t mealrec-decoder:0.1.0 .
# The pipeline starts it in place of its own child (the videos' folder at the same path, read-only):
#   MEALREC_DECODER="docker run --rm --interactive --network none --read-only --cap-drop ALL --security-opt no-new-privileges
#     --memory 6g --pids-limit 64 --volume /landing:/landing:ro mealrec-decoder:0.1.0"
FROM python:3.11.11-slim-bookworm

WORKDIR /app
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt numpy decord av
COPY mealrec/__init__.py ./mealrec/
COPY mealrec/features/__init__.py mealrec/features/sampling.py mealrec/features/header.py mealrec/features/complaints.py mealrec/features/sound.py ./mealrec/features/
COPY mealrec/features/confinement.py mealrec/features/identity.py mealrec/features/decoder_child.py ./mealrec/features/

USER 65534:65534
ENV PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["python", "-m", "mealrec.features.decoder_child"]
