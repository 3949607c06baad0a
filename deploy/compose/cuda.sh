# Makes of CUDA's wheels in a virtual environment what compilers look for: one folder, and libraries by their plain names.
set -eu
wheels=$(echo "$1"/lib/python3*/site-packages/nvidia/cu13)
ln -s "$wheels" "$2"
ln -s lib "$wheels/lib64"
for library in "$wheels"/lib/lib*.so.*; do
    ln -sf "${library##*/}" "${library%%.so.*}.so"
done
