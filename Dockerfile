# git archive HEAD | docker build --tag NAME -
FROM python:3.12-slim
WORKDIR /jepa_jax
COPY . .
RUN pip install --no-cache-dir --editable '.[tpu,fast]'
