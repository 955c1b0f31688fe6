#!/bin/sh
# look.sh VM TEXT: where a line that is TEXT is in a VM's memory, and what DRAM holds at that place.
set -eu
export LC_ALL=C
vm=$1 text=$2

field() { sealbus inspect "$vm" | sed -n "s/^$1: //p"; }
memory=$(field memory) # the file that QEMU maps: what the CPU sees
dram=$(field DRAM)     # what lies in the memory modules
[ -n "$dram" ] || { echo "look.sh: expected a VM with sealed memory, got $vm" >&2; exit 1; }

sync "$memory" # what the guest has stored last leaves the CPU's cache
at=$(grep -abxF -m 1 "$text" "$memory" | cut -d: -f1)
[ -n "$at" ] || { echo "look.sh: expected a line that is \"$text\" in $vm's memory, got none" >&2; exit 1; }
bytes() { od -A n -t x1z -j "$at" -N 32 "$1"; }
count() { grep -aoF "$text" "$1" | wc -l; }

echo "$vm, 32 bytes at $(printf '0x%x' "$at"), as the guest has them and in DRAM:"
bytes "$memory"
bytes "$dram"
echo "the text is there $(count "$memory") times in memory, $(count "$dram") times in DRAM"
