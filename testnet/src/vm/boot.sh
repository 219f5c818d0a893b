#!/bin/busybox sh
# The guest's first process: reaches the disk, puts the run's files on it, hands over.
# Report lines go to the second serial port; the first is the kernel's.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
mark="vm-$($b cat /vm/nonce):"
broken() {
    echo "$mark broken $*" >/dev/ttyS1
    $b poweroff -f
}
while read -r module; do
    $b insmod "/boot/$module" 2>/dev/null
done </boot/order
tries=0
while ! [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || broken "the disk did not appear"
    $b sleep 0.1
done
$b mkdir -p /new
$b mount -t ext4 -o noatime /dev/vda /new || broken "the disk cannot be mounted"
# An image made by an ordinary user holds that user's files.
[ "$($b stat -c %u /new/usr)" = 0 ] || $b chown -R 0:0 /new
$b cp -a /files/. /new/ || broken "the files do not fit"
$b cp -a /vm /new/ || broken "the files do not fit"
$b umount /proc /sys
$b mount -o move /dev /new/dev
exec $b switch_root /new /bin/sh /vm/init.sh
