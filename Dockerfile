# Both halves of the image stand on it; a digest or a mirror goes here: --build-arg BASE=python:3.13-slim@sha256:...
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.txt deploy/docker/requirements-build.txt ./
# Wheels only, each with its hash: nothing that is downloaded is run here but the build backend.
RUN python -m venv /opt/build \
    && python -m venv --without-pip /opt/thg-proxy \
    && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.txt \
    && /opt/build/bin/pip --python /opt/thg-proxy install --require-hashes --only-binary :all: --no-compile -r requirements.txt
COPY pyproject.toml README.md ./
COPY proxy ./proxy
# Bytecode that is valid whatever a copy does to the times of files.
RUN /opt/build/bin/hatchling build --target wheel --directory dist \
    && /opt/build/bin/pip --python /opt/thg-proxy install --no-index --no-deps --no-compile dist/*.whl \
    && /opt/thg-proxy/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/thg-proxy/lib

# Apart, so that the tools for the list can't touch what it lists.
FROM build AS sbom
COPY deploy/docker/requirements-sbom.txt ./
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-sbom.txt \
    && /opt/build/bin/cyclonedx-py environment --output-reproducible --output-file /sbom.cdx.json /opt/thg-proxy

FROM ${BASE}
ARG VERSION=unknown
LABEL org.opencontainers.image.title="thg-proxy" \
      org.opencontainers.image.description="An authenticating sidecar: plain HTTP on loopback in, an OAuth2-protected API with a fresh Bearer token out." \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/thg-proxy /opt/thg-proxy
COPY --from=sbom /sbom.cdx.json /opt/thg-proxy/sbom.cdx.json
ENV PATH=/opt/thg-proxy/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["thg-proxy", "wait", "--timeout", "5s"]
ENTRYPOINT ["thg-proxy"]
CMD ["run"]
