# docker build --target demo -t tinyclip-edge-demo . && docker run -p 127.0.0.1:7860:7860 tinyclip-edge-demo
# docker build --target distill -t tinyclip-edge . && docker run -v "$PWD/runs:/work/runs" tinyclip-edge distill starter
FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 clip && mkdir /work && chown clip /work
WORKDIR /src
COPY . .

FROM base AS distill
RUN pip install ./tinyclip_starter '.[all]'
USER clip
WORKDIR /work
ENTRYPOINT ["tinyclip-edge"]
CMD ["--help"]

FROM distill AS demo
EXPOSE 7860
# The page answers what the container's port is published for; publish it on 127.0.0.1.
CMD ["demo", "--host", "0.0.0.0"]
