#!/bin/sh
# What an installed wheel must do anywhere; no mount, for containers have no /dev/fuse.
set -eux
cd "$(mktemp -d)"
daxmend --version
python -c 'from daxmend import _native; assert _native.instructions()["digest"], "no xxhash.h"'
daxmend create pool --size 16M
daxmend inject pool --offset 8M --length 512
status=0
daxmend list pool || status=$?
[ "$status" -eq 4 ]
daxmend check pool || [ $? -eq 4 ]
