#!/bin/sh
# The first process of a user-mode guest: makes a system out of the host's files and serves it.
#
# It starts with the host's root file system, read-only, and HF_BOOT naming the guest's folder on
# the host, whose boot.env says the rest. Stage 1 lays a writable layer (in memory) over the host's
# files and moves there; stage 2 sets up devices, network, disk and the role's services, and then
# starts the agent that runs the lab's commands. If a step fails the guest says so on its console
# and powers off: a half-made host must not look like a host.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

die() {
    echo "holdfast-lab: guest failed: $1" > /dev/console
    busybox poweroff -f
}

must() {
    "$@" || die "'$*' returned $?"
}

stage1() {
    must mount -n -t tmpfs -o mode=0755 layer /mnt
    mkdir /mnt/upper /mnt/work /mnt/root /mnt/boot
    # By a mount of its own: a folder under the host's /dev is hidden by the guest's.
    must mount -n -t hostfs -o "$HF_BOOT" boot /mnt/boot
    . /mnt/boot/boot.env
    must modprobe -d "$HF_MODULES" overlay
    must mount -n -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root
    cd /mnt/root || die "no new root"
    must pivot_root . mnt
    exec chroot . /bin/sh "$HF_INIT" stage2 < dev/null
}

stage2() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm /lab
    mount -t devpts devpts /dev/pts
    mount -t tmpfs -o mode=1777 shm /dev/shm
    mount -t tmpfs -o mode=0755 run /run
    mkdir -p /run/lock/iscsi /run/user /var/lib/iscsi
    must mount -t hostfs -o "$HF_SHARED" shared /lab
    umount -l /mnt
    exec > /dev/console 2>&1
    release=$(uname -r)
    mkdir -p /lib/modules
    ln -sfn "$HF_MODULES/lib/modules/$release" "/lib/modules/$release"
    identity
    network
    [ -n "$HF_DISK" ] && disk
    devices
    role_"$HF_ROLE"
    serve
}

identity() {
    hostname "$HF_NAME"
    echo "$HF_NAME" > /etc/hostname
    printf '127.0.0.1 localhost\n%s %s\n%s host\n' "$HF_ADDRESS" "$HF_NAME" "$HF_HOST" > /etc/hosts
    rm -rf /etc/iscsi/nodes /etc/iscsi/send_targets /etc/multipath.conf /etc/multipath /etc/target
    mkdir -p /etc/iscsi /etc/multipath /etc/target /var/target/alua /var/target/pr
    echo "InitiatorName=$HF_INITIATOR" > /etc/iscsi/initiatorname.iscsi
    tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
}

network() {
    # The lab's own channel is kept out of sight in a namespace: whatever is done to the guest's
    # network, its commands still arrive, and no service listens there by accident.
    must ip netns add management
    must ip link set vec1 netns management
    must ip -n management addr add "$HF_MANAGEMENT/24" dev vec1
    must ip -n management link set vec1 mtu "$HF_MTU" up
    ip link set lo up
    must ip link set vec0 mtu "$HF_MTU" up
    must ip addr add "$HF_ADDRESS/$HF_PREFIX" dev vec0
}

disk() {
    device=/dev/ubda
    options=defaults
    if ! blkid "$device" > /dev/null; then
        case "$HF_DISK" in
            ext4) must mkfs.ext4 -q -m 0 -E nodiscard,lazy_itable_init=1 "$device" ;;
            xfs) must mkfs.xfs -q -K "$device" ;;
        esac
        must blockdev --flushbufs "$device"
    fi
    [ -n "$HF_FAULTY_DISK" ] && faulty_disk
    mkdir -p /var/lib/holdfast
    must mount -t "$HF_DISK" -o "$options" "$device" /var/lib/holdfast
}

faulty_disk() {
    # A disk with a write cache that a power cut empties, below a layer whose table can be swapped
    # for one that fails. Why this way: disk_faults.py.
    must modprobe -a loop dm_mod dm_flakey
    must losetup /dev/loop0 "$device"
    sectors=$(blockdev --getsz /dev/loop0)
    must dmsetup create --noudevsync --noudevrules holdfast --table "0 $sectors linear /dev/loop0 0"
    must dmsetup mknodes holdfast
    device=/dev/mapper/holdfast
    # The kernel writes nothing back by itself: what survives was asked for.
    echo 0 > /proc/sys/vm/dirty_writeback_centisecs
    [ "$HF_DISK" = ext4 ] && options=commit=3600
}

devices() {
    [ -x /lib/systemd/systemd-udevd ] || die "no systemd-udevd: run 'holdfast-lab install'"
    must /lib/systemd/systemd-udevd --daemon
}

role_storage() {
    must modprobe -a uio target_core_mod
    # Only now: configfs is a module too, and the target's folder appears in it as it is loaded.
    mountpoint -q /sys/kernel/config || must mount -t configfs configfs /sys/kernel/config
    must modprobe -a target_core_file target_core_iblock target_core_user
    must modprobe -a iscsi_target_mod tcm_loop
}

role_compute() {
    must modprobe -a sd_mod iscsi_tcp dm_multipath dm_round_robin dm_service_time
    iscsid --foreground --initiatorname=/etc/iscsi/initiatorname.iscsi > /var/log/iscsid.log 2>&1 &
}

serve() {
    "$HF_PYTHON" -I -S "$HF_AGENT" "$HF_MANAGEMENT" "$HF_PORT" &
    agent=$!
    # As process 1 this shell inherits every orphan, and 'wait' is what buries them.
    while kill -0 "$agent" 2> /dev/null; do wait "$agent"; done
    die "the lab's agent ended"
}

if [ "$1" = stage2 ]; then stage2; else stage1; fi
