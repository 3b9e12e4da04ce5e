# binsr with its page and its service: docs/service.md.
FROM python:3.13-slim

# The native code is compiled at the first use, for the processor that it runs on.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home binsr
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY binsr_jax binsr_jax
RUN pip install --no-cache-dir '.[demo]' && rm -rf /src/*

USER binsr
WORKDIR /home/binsr
EXPOSE 8000
ENTRYPOINT ["binsr"]
# All addresses of the container; who publishes the port decides who can reach it.
CMD ["serve", "--host", "0.0.0.0"]
