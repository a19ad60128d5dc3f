#!/bin/sh
# In the guest, on the host's root: what a booted system has, then the tests, then power off.
# The host says in the environment where CHECKOUT and MODULES are, and what of the checkout is to be
# as /ring/checkout.tar has it (CHECKED_OUT), and gives pytest's arguments.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8 DAXMEND_RING=1 DM_DISABLE_UDEV=1

finish() {
    sync
    echo o >/proc/sysrq-trigger
    while :; do :; done # the root may go before the power does
}
trap finish EXIT

# What the tests need may lie below a directory that is a new one in the guest.
for path in "$CHECKOUT" "$MODULES"; do
    mkdir -p "/kept$path"
    mount --bind "$path" "/kept$path" || exit
done
for name in /tmp /run /var/tmp; do
    mount -t tmpfs tmpfs "$name" || exit
done
mkdir -p /dev/shm /dev/pts /run/lock
mount -t tmpfs tmpfs /dev/shm || exit
mount -t devpts devpts /dev/pts || exit
for path in "$CHECKOUT" "$MODULES"; do
    mkdir -p "$path"
    mount --bind "/kept$path" "$path" || exit
done
for name in $CHECKED_OUT; do
    mount -t tmpfs tmpfs "$CHECKOUT/$name" || exit
done
tar -xf /ring/checkout.tar -C "$CHECKOUT" || exit
mkdir -p /lib/modules
ln -sfn "$MODULES" "/lib/modules/$(uname -r)"
# ndctl's configuration of modprobe asks for keys first; there are none.
modprobe -C /dev/null -a nd_pmem nd_e820 nd_btt dax_pmem device_dax ext4 xfs loop fuse dm_mod \
    dm_log_writes dm_writecache || exit

dmesg -n 3 # what the tests make fail on purpose is not for the console
echo "ring: boot line: $(cat /proc/cmdline)"
echo "ring: kernel: $(cat /proc/version)"
cd "$CHECKOUT" || exit
.venv/bin/python -m pytest -p no:cacheprovider -p no:hypothesispytest --junitxml=/ring/junit.xml \
    --color=no -o timeout=300 tests/kernel/guest "$@" </dev/null
echo $? >/ring/status
