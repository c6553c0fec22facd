#!/bin/sh
# Starts a ring of three nodes on this machine, with their data in ring-of-three-data. They listen at 127.0.0.1:7000, 7010 and 7020. Ctrl-C
# ends them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target="${CARGO_TARGET_DIR:-$here/../../target}"
cargo build --release --bin allidb --manifest-path "$here/../../Cargo.toml"
nodes=
for n in 1 2 3; do
    "$target/release/allidb" serve --config "$here/node-$n.yaml" &
    nodes="$nodes $!"
done
# Ctrl-C reaches the nodes, too: a second signal would cut them off.
trap : INT
trap 'kill $nodes 2>/dev/null' TERM
# The first signal ends the first wait; the nodes end in order after it.
wait || true
wait
