# The page, with the runs and bundles of this folder:
#   docker build --target demo -t tinyclip-edge-demo .
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD:/work" tinyclip-edge-demo
# Any command, on the files of this folder and as its owner:
#   docker build --target distill -t tinyclip-edge .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" tinyclip-edge distill starter
# A bundle behind HTTP, without torch:
#   docker build --target serve -t tinyclip-edge-serve .
#   docker run --rm -p 127.0.0.1:8080:8080 -v "$PWD/bundles/mine:/bundle:ro" tinyclip-edge-serve
# Without a GPU, a package index with CPU wheels of torch saves gigabytes: --build-arg PIP_EXTRA_INDEX_URL=...
FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache MPLCONFIGDIR=/tmp/matplotlib
RUN useradd --create-home --uid 1000 clip && mkdir /work && chown clip /work
WORKDIR /src
COPY . .

FROM base AS serve
RUN pip install '.[serve]'
USER clip
WORKDIR /work
EXPOSE 8080
ENTRYPOINT ["tinyclip-edge", "serve", "--host", "0.0.0.0"]
CMD ["/bundle"]

FROM base AS distill
ARG PIP_EXTRA_INDEX_URL
RUN pip install ./tinyclip_starter '.[all]'
USER clip
WORKDIR /work
ENTRYPOINT ["tinyclip-edge"]
CMD ["--help"]

FROM distill AS demo
EXPOSE 7860
# Anyone who can reach the published port can use the page: publish it on 127.0.0.1.
CMD ["demo", "--host", "0.0.0.0"]
