# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy ./proxy
RUN python -m venv /opt/thg-proxy && /opt/thg-proxy/bin/pip install --no-cache-dir .

FROM python:3.13-slim
COPY --from=build /opt/thg-proxy /opt/thg-proxy
ENV PATH=/opt/thg-proxy/bin:$PATH PYTHONUNBUFFERED=1
# A number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["thg-proxy", "wait", "--timeout", "5s"]
ENTRYPOINT ["thg-proxy"]
CMD ["run"]
