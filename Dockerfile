# CPU image (ONNX Runtime, OpenVINO):   docker build -t madx .
# TensorRT image:                       docker build -t madx-trt --build-arg BASE=nvcr.io/nvidia/tensorrt:25.10-py3 \
#                                           --build-arg EXTRAS=tensorrt --build-arg TORCH_INDEX= .
#   run it with:                        docker run --gpus all -v "$PWD:/work" madx-trt run recipe.yaml
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG EXTRAS=openvino
# CPU builds of torch; for the TensorRT image pass an empty value, so that torch comes with CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/madx
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY madx ./madx
COPY recipes ./recipes
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} -c constraints.txt ".[${EXTRAS}]"

RUN useradd --create-home madx
USER madx
WORKDIR /work
ENTRYPOINT ["madx"]
CMD ["--help"]
