#!/bin/sh
# powercut_images.sh POWERCUT PYTHON DIRECTORY COUNT: images left by cuts, written out by the engine's replay, are read by the
# independent reader; then one answer is altered, which the reader must notice. 77: the reader's packages are missing.
set -eu
powercut=$1 python=$2 directory=$3 count=$4
here=$(cd "$(dirname "$0")" && pwd)
rm -rf "$directory"
mkdir -p "$directory"
trap 'rm -rf "$directory"' EXIT
"$powercut" --points $((count * 25)) --seed 9001 --second-cuts --images "$directory" --image-count "$count"
"$python" -B "$here/check_cuts.py" "$directory"
if "$python" -B "$here/check_cuts.py" "$directory" --planted >"$directory/planted"; then
	echo "FAILED: an altered answer was not noticed"
	exit 1
fi
tail -n 1 "$directory/planted"
