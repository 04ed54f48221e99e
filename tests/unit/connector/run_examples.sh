#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs the examples against a real daemon, and one of them built out of an installed library, as a user would.
#   run_examples.sh BUILD_FOLDER SOURCE_FOLDER KVCASKD [embedded] [install]
set -eu
build=$1 source=$2 daemon=$3
shift 3
folder=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill "$pid"; rm -rf "$folder"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

printf 'socket: %s/s\nmemory.capacity: 64MiB\nmemory.slab: 8MiB\nlog.level: warn\n' "$folder" > "$folder/kvcaskd.yaml"
"$daemon" --config "$folder/kvcaskd.yaml" &
pid=$!
for i in $(seq 300); do test -S "$folder/s" && break; sleep 0.05; done

out=$("$build/examples/store_and_load" "unix:$folder/s")
echo "$out"
echo "$out" | grep -q "matched 8 of 8 blocks" || fail "store_and_load did not match all"
echo "$out" | grep -q "all bytes are the same" || fail "store_and_load"
out=$("$build/examples/store_and_load" "unix:$folder/nobody" 2>&1) && fail "opened a socket that is not there"
echo "$out" | grep -q "GONE" || fail "no clear error: $out"

# The same tokens, in two turns, and a third turn that nobody stored; one store is there, one is not.
{ seq 0 7 2093 | tr '\n' ' '; echo; seq 2100 7 3577 | tr '\n' ' '; echo; seq 1 200 | tr '\n' ' '; echo; } > "$folder/tokens"
out=$("$build/examples/router_lookup" example-model-revision-1 "unix:$folder/s" "unix:$folder/nobody" < "$folder/tokens")
echo "$out"
echo "$out" | grep -q "256 of 256 tokens" || fail "router_lookup: first turn"
echo "$out" | grep -q "512 of 512 tokens" || fail "router_lookup: second turn"
echo "$out" | grep -q "512 of 704 tokens, then: never_stored" || fail "router_lookup: third turn"
echo "$out" | grep -Eq "nobody +(CIRCUIT_OPEN|GONE)" || fail "router_lookup: the store that is away"

for extra in "$@"; do
	case $extra in
	embedded)
		out=$("$build/examples/store_and_load" embedded:)
		echo "embedded: $out"
		echo "$out" | grep -q "all bytes are the same" || fail "embedded"
		mkdir "$folder/store"
		out=$("$build/examples/store_and_load" "embedded:$folder/store?memory.capacity=64MiB&disk.capacity=256MiB")
		echo "$out" | grep -q "all bytes are the same" || fail "embedded with a folder"
		;;
	install)
		cmake --install "$build" --component client --prefix "$folder/usr" > /dev/null
		pc=$(dirname "$(find "$folder/usr" -name kvcask.pc)")
		${CC:-cc} "$source/examples/store_and_load.c" -o "$folder/store_and_load" \
			$(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs kvcask) || fail "does not build against the installed library"
		out=$(LD_LIBRARY_PATH=$(dirname "$pc") "$folder/store_and_load" "unix:$folder/s")
		echo "installed: $out"
		echo "$out" | grep -q "all bytes are the same" || fail "installed"
		library=$(find "$folder/usr" -name 'libkvcask.so.0.*')
		# Only kvc_* of a named version is exported, and nothing is needed that a machine with OpenSSL lacks.
		nm -D --defined-only "$library" | awk '{print $3}' | grep -v '^KVCASK_' | grep -vq '^kvc_[a-z_]*@@KVCASK_0\.1$' &&
			fail "libkvcask.so exports more than kvc_*"
		readelf -d "$library" | grep NEEDED | grep -Ev 'libc\.so|libcrypto\.so|ld-linux|libpthread|libdl' &&
			fail "libkvcask.so needs more than libc and libcrypto"
		for name in $(sed -n 's/^.*\b\(kvc_[a-z_]*\)(.*$/\1/p' "$source"/include/kvcask/kvcask.h "$source"/include/kvcask/form.h \
			"$source"/include/kvcask/status.h | sort -u); do
			nm -D --defined-only "$library" | grep -q " $name@" || fail "$name is declared and not exported"
		done
		;;
	esac
done
echo passed
