"""What is compared in the lab: each starts on the storage guests and says where to log in."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from holdfast.base import ids
from holdfast.base.limits import MIB
from holdfast.base.nbd.testing_pki import TestAuthority
from holdfast.base.tls import TlsFiles
from holdfast.lab import initiator
from holdfast.lab.guest import Guest
from holdfast.lab.initiator import Login

SIZE_BYTES = 192 * MIB
FOLDER = "/srv/bench"
"""In each storage guest: a file system in its memory. What is measured is the path, not a disk."""
HERE = Path(__file__).parent
_IQN = "iqn.2026-11.io.holdfast.bench"
_TARGET = "/sys/kernel/config/target"
_NBD_PORT = 20100


@dataclass(frozen=True)
class Guests:
    a: Guest
    b: Guest
    compute: Guest

    @property
    def portal(self) -> str:
        return f"{self.a.address}:3260"


class Peer:
    """`start` makes it ready to be logged in to; `log_in` gives the disk's path in the compute guest."""

    name: str
    mirrored = False

    def start(self, guests: Guests) -> None:
        raise NotImplementedError

    def log_in(self, guests: Guests) -> str:
        raise NotImplementedError

    def check(self, guests: Guests) -> None:
        """Raises CommandFailed if it is not what its name says any more: what was measured counts no more."""


class Holdfast(Peer):
    def __init__(self, name: str, number: int, hosts: int, authority: TestAuthority | None) -> None:
        self.name = name
        self.mirrored = hosts > 1
        self._hosts = [f"host-{letter}" for letter in "ab"][:hosts]
        self._port = _NBD_PORT + number
        self._uid = ids.new_uid()
        self._tls = [
            _tls_words(authority.issue(host, "host")) if authority else ["--clear"] for host in self._hosts
        ]

    def start(self, guests: Guests) -> None:
        machines = [guests.a, guests.b][: len(self._hosts)]
        for number in reversed(range(len(machines))):  # The mirror first: the primary dials it.
            others = [
                (host, machine.address, self._port)
                for host, machine in zip(self._hosts, machines, strict=True)
                if machine is not machines[number]
            ]
            plan = {
                "uid": self._uid,
                "size_bytes": SIZE_BYTES,
                "role": "mirror" if number else "primary",
                "host_id": self._hosts[number],
                "members": self._hosts,
                "peers": others,
                "address": machines[number].address,
                "port": self._port,
                "portal": guests.portal,
                "folder": FOLDER,
                "tls": self._tls[number],
                "initiator": guests.compute.spec.initiator,
                "user": "bench",
                "secret": "secret-of-bench",
            }
            machines[number].run(
                [sys.executable, str(HERE / "lab_worker.py"), json.dumps(plan)], timeout_s=180
            )

    def log_in(self, guests: Guests) -> str:
        iqn = ids.target_iqn(self._uid)
        return initiator.log_in(guests.compute, Login(iqn, guests.portal, 0, "bench", "secret-of-bench"))


def _tls_words(files: TlsFiles) -> list[str]:
    return ["--tls-ca", str(files.ca), "--tls-cert", str(files.certificate), "--tls-key", str(files.key)]


class Scripted(Peer):
    """A shell script on storage-a (and one on storage-b before it) makes a target without CHAP; `sound` is
    one that fails on storage-a if it is not whole.
    """

    def __init__(
        self, name: str, word: str, on_a: str, on_b: str = "", port: int = 3260, sound: str = "true"
    ) -> None:
        self.name = name
        self._sound = sound
        self.mirrored = bool(on_b)
        self._iqn = f"{_IQN}:{word}"
        self._on_a, self._on_b, self._port = on_a, on_b, port

    def start(self, guests: Guests) -> None:
        values = {
            "T": _TARGET,
            "IQN": self._iqn,
            "PORTAL": f"{guests.a.address}:{self._port}",
            "A": guests.a.address,
            "B": guests.b.address,
            "SIZE": str(SIZE_BYTES),
            "DIR": FOLDER,
            "INITIATOR": guests.compute.spec.initiator,
        }
        for machine, script in ((guests.b, self._on_b), (guests.a, self._on_a)):
            if script:
                machine.run(["sh", "-exc", script], env=values, timeout_s=180)

    def check(self, guests: Guests) -> None:
        guests.a.run(["sh", "-ec", self._sound])

    def log_in(self, guests: Guests) -> str:
        login = Login(self._iqn, f"{guests.a.address}:{self._port}", 1 if self._port != 3260 else 0, "", "")
        initiator.make_node(guests.compute, login, with_secret=False)
        guests.compute.run(initiator.node(login, "--login"), timeout_s=60)
        guests.compute.run(["udevadm", "wait", "--timeout=60", login.device], timeout_s=65)
        return login.device


_EXPORT = """
mkdir -p $T/iscsi/$IQN/tpgt_1
cd $T/iscsi/$IQN/tpgt_1
mkdir -p np/$PORTAL lun/lun_0
for set in authentication=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_write_protect=0; do
    echo ${set#*=} > attrib/${set%=*}
done
ln -s $STORE lun/lun_0/store
echo 1 > enable
"""

FILEIO = Scripted(
    "LIO fileio",
    "fileio",
    """
STORE=$T/core/fileio_0/bench
truncate -s $SIZE $DIR/fileio
mkdir -p $STORE
echo "fd_dev_name=$DIR/fileio,fd_dev_size=$SIZE,fd_buffered_io=1" > $STORE/control
echo 1 > $STORE/enable
echo 1 > $STORE/attrib/emulate_write_cache
"""
    + _EXPORT,
)

_DRBD = """
modprobe -a brd drbd || modprobe drbd
test -b /dev/ram0 || mknod /dev/ram0 b 1 0
mkdir -p /run/lock /var/lock /var/lib/drbd /etc/drbd.d
cat > /etc/drbd.conf <<END
global { usage-count no; }
common { net { protocol C; timeout 90; ping-timeout 50; } }
resource r0 {
    device /dev/drbd0; disk /dev/ram0; meta-disk internal;
    net { max-buffers 8000; sndbuf-size 0; }
    on bench-a { address $A:7789; }
    on bench-b { address $B:7789; }
}
END
"""
DRBD = Scripted(
    "LIO iblock on DRBD, protocol C",
    "drbd",
    "hostname bench-a\n" + _DRBD + """
drbdadm create-md --force r0 < /dev/null
drbdadm up r0
drbdadm wait-connect r0
drbdadm -- --clear-bitmap new-current-uuid r0
drbdadm primary r0
cat /proc/drbd
STORE=$T/core/iblock_0/bench
mkdir -p $STORE
echo "udev_path=/dev/drbd0" > $STORE/control
echo 1 > $STORE/enable
""" + _EXPORT,
    "hostname bench-b\n" + _DRBD + """
drbdadm create-md --force r0 < /dev/null
drbdadm up r0
""",
    # Who has lost its mirror goes on alone, and is faster.
    sound="grep 'cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate' /proc/drbd",
)  # fmt: skip

TGT = Scripted(
    "tgt",
    "tgt",
    """
truncate -s $SIZE $DIR/tgt
mkdir -p /run/tgtd
tgtd -f --iscsi portal=$PORTAL > $DIR/tgt.log 2>&1 &
for i in $(seq 100); do tgtadm --lld iscsi --mode sys --op show > /dev/null 2>&1 && break; sleep 0.1; done
tgtadm --lld iscsi --op new --mode target --tid 1 --targetname $IQN
tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 --backing-store $DIR/tgt
tgtadm --lld iscsi --op bind --mode target --tid 1 --initiator-address ALL
""",
    port=3261,
)

TCMU_RUNNER = Scripted(
    "tcmu-runner (qcow handler, raw file)",
    "tcmu",
    """
truncate -s $SIZE $DIR/tcmu
mkdir -p /run/dbus
test -S /run/dbus/system_bus_socket || dbus-daemon --system --fork
tcmu-runner > $DIR/tcmu.log 2>&1 &
for i in $(seq 100); do
    busctl --system status org.kernel.TCMUService1 > /dev/null 2>&1 && break; sleep 0.1
done
STORE=$T/core/user_7/tcmu
mkdir -p $STORE
printf %s "dev_config=qcow/$DIR/tcmu" > $STORE/control
printf %s "dev_size=$SIZE" > $STORE/control
echo 1 > $STORE/enable
"""
    + _EXPORT,
)
