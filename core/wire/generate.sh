#!/bin/sh
# Regenerates core/wire/gen from the .proto files. Needs `pip install grpcio-tools==1.76.0` (the oldest protobuf 6 runtime
# that the stubs must work with) in the interpreter named by $PYTHON.
set -eu
cd "$(dirname "$0")"
mkdir -p gen
"${PYTHON:-python3}" -m grpc_tools.protoc -I proto --python_out=gen --pyi_out=gen --grpc_python_out=gen proto/taskloom/v1/*.proto
mv gen/taskloom/v1/* gen/
rm -r gen/taskloom
sed -i 's/^from taskloom\.v1 import/from taskloom.core.wire.gen import/' gen/*.py gen/*.pyi
