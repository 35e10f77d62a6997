"""Inside a storage guest: a worker, told what its agent would tell it, and the export of its volume.

lab_worker.py PLAN    a JSON object; ends when the volume is served here, and leaves the worker running
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from holdfast.base.loop import Loop
from holdfast.target.control import Desired, DesiredPeer, DesiredRing
from holdfast.target.control_client import WorkerLink
from holdfast.target.lio import Lio
from holdfast.target.lio_export import Acl, Export, uio_name
from holdfast.target.workers import worker_command

PATIENCE_S = 120.0


def main() -> None:
    plan = json.loads(sys.argv[1])
    uid, primary = plan["uid"], plan["role"] == "primary"
    export = Export(
        uid,
        plan["size_bytes"],
        plan["portal"],
        acls=(Acl(plan["initiator"], plan["user"], plan["secret"]),),
    )
    ring = None
    if primary:
        lio = Lio()
        lio.prepare()
        lio.converge(uid, export, False)
        ring = DesiredRing(str(lio.backstore(uid)), uio_name(uid))
    _serve(plan, ring)
    if primary:
        lio.converge(uid, Export(**{**export.__dict__, "serve": True}), True)


def _serve(plan: dict[str, object], ring: DesiredRing | None) -> None:
    folder, uid = Path(str(plan["folder"])), str(plan["uid"])
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    words = worker_command(str(plan["host_id"]), folder, run, plan["tls"])  # type: ignore[arg-type]
    with open(folder / f"{uid}.log", "wb") as log:
        subprocess.Popen([*words, "--volume", uid], stdout=log, stderr=log, start_new_session=True)
    loop = Loop()
    link = WorkerLink(loop, run / f"{uid}.sock", lambda: None)
    deadline_s = time.monotonic() + PATIENCE_S
    desired = Desired(
        volume_uid=uid,
        size_bytes=plan["size_bytes"],  # type: ignore[arg-type]
        role=str(plan["role"]),
        epoch=1,
        members=tuple(plan["members"]),  # type: ignore[arg-type]
        primary_host_id="host-a",
        initialized=False,
        listen_address=str(plan["address"]),
        nbd_port=plan["port"],  # type: ignore[arg-type]
        peers=tuple(DesiredPeer(*peer, 2, True) for peer in plan["peers"]),  # type: ignore[attr-defined]
        ring=ring,
    )
    while True:
        if link.connect():
            link.apply(desired)
        seen = link.observed
        if seen and seen.store_open and (ring is None or (seen.serving and seen.ring_open)):
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{seen}")
        loop.run_once(0.1)


main()
