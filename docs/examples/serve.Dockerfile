# A cascade in a container. Build it in a folder with pair.yaml, policy.yaml and the checkpoints:
#   docker build -f serve.Dockerfile -t cascade .
#   docker run --shm-size 4g -p 8000:8000 cascade
FROM python:3.12-slim
RUN pip install --no-cache-dir 'lit-cascade[serve]' && useradd --create-home cascade
USER cascade
WORKDIR /home/cascade
COPY --chown=cascade . .
EXPOSE 8000
# stops as SIGTERM tells it to, once what was accepted is answered
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=2m CMD \
  python -c "import urllib.request as u; u.urlopen('http://localhost:8000/readyz', timeout=3)"
ENTRYPOINT ["lit-cascade", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--config", "pair.yaml", "--policy", "policy.yaml"]
