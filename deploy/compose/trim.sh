# Removes from a virtual environment what no service reads: tests, sources of compiled modules, Arrow's RPC.
set -eu
cd "$1"/lib/python3*/site-packages
find . -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
find . -type f \( -name '*.c' -o -name '*.pyx' -o -name '*.pyi' \) -delete
rm -rf pyarrow/include pyarrow/src
rm -f pyarrow/libarrow_flight.so.* pyarrow/_flight.*.so
