#!/bin/sh
# The guest's only init: a machine as systemd leaves it (cgroup v2 with every
# controller, shared mounts, a tmpfs on /run), then one command after the other,
# each in a cgroup of its own, then the power goes off. Being process 1, the
# shell also reaps whatever is orphaned.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TMPDIR=/tmp LANG=C.UTF-8 RUST_BACKTRACE=1
mark="vm-$(cat /vm/nonce):"
user=65534
mount --make-rshared /
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mkdir -p "/run/user/$user" /home/nobody
chown "$user:$user" "/run/user/$user" /home/nobody
chmod 700 "/run/user/$user"
chmod 1777 /tmp /var/tmp /dev/shm
chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap
chmod 666 /dev/ttyS1
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1

hostname testnet
ip link set lo up
ulimit -Hn 524288
# shellcheck disable=SC2046 # one word each
modprobe -q -a $(cat /vm/modules)

everything() {
    for controller in $(cat "$1/cgroup.controllers"); do
        echo "+$controller" 2>/dev/null >"$1/cgroup.subtree_control"
    done
}
slice=/sys/fs/cgroup/vm.slice
mkdir "$slice"
everything /sys/fs/cgroup
everything "$slice"

delegate() {
    chown "$user" "$1"
    for file in $(cat /sys/kernel/cgroup/delegate); do
        [ ! -e "$1/$file" ] || chown "$user" "$1/$file"
    done
}
mounts() { wc -l </proc/self/mountinfo; }
processes() { find "$1" -name cgroup.procs -exec cat {} + 2>/dev/null | wc -l; }
hundredths() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}"; }

# run NUMBER root|delegated|undelegated SECONDS
run() {
    group=$slice/vm-$1.service
    mkdir "$group"
    [ "$2" != delegated ] || delegate "$group"
    mounts_before=$(mounts)
    began=$(hundredths)
    printf '\n%s start %s\n' "$mark" "$1" >&3
    timeout -k 5 "$3" /bin/sh /vm/enter.sh "$group" "$2" "/vm/$1.sh" </dev/null >&3 2>&1 3>&-
    code=$?
    took=$(($(hundredths) - began))
    # Who stays must have meant to: give the others a moment to be gone.
    tries=0
    while [ "$(processes "$group")" -gt 0 ] && [ $tries -lt 20 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    left="$(processes "$group") $(($(mounts) - mounts_before))"
    echo 1 >"$group/cgroup.kill"
    tries=0
    while ! find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && [ $tries -lt 50 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    printf '\n%s end %s %s %s %s\n' "$mark" "$1" "$code" "$took" "$left" >&3
}

read -r up _ </proc/uptime
printf '\n%s booted %s %s\n' "$mark" "$up" "$(uname -r)" >&3
. /vm/plan.sh
printf '\n%s done\n' "$mark" >&3
sync
busybox poweroff -f
