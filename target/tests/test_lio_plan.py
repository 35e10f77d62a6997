"""The plan of an export against a model of configfs with the kernel's own rules of order."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from holdfast.base import ids
from holdfast.base.errors import Unavailable
from holdfast.target import lio
from holdfast.target.lio import Lio, NoLio
from holdfast.target.lio_export import Acl, Export, Present, backstore_path, group_path, target_path
from holdfast.target.lio_plan import Kind, Step, reconcile_export
from holdfast.target.lio_reservations import Reservations, Tenure, read_reservations
from holdfast.target.lio_sessions import logged_in

UID = "0123456789abcdef01234567"
ALICE = Acl("iqn.2026-01.com.example:alice", "user-a", "secret-a-123")
BOB = Acl("iqn.2026-01.com.example:bob", "user-b", "secret-b-123")
PLAIN = Export(UID, 1 << 30, "10.0.0.1:3260")
SERVED = dataclasses.replace(PLAIN, serve=True, acls=(ALICE,))


class FakeLio(Lio):
    """A folder that behaves as the kernel does: known files appear, order is checked."""

    def __init__(self, root: Path, worker: bool = True) -> None:
        super().__init__(root)
        self.worker = worker
        self.fail_after: int | None = None
        for path in ("core/user_4868", "iscsi", "core/fileio_0/other", "iscsi/iqn.2003-01.org.linux-iscsi:x"):
            (root / path).mkdir(parents=True)

    def steps(self, wanted: Export | None, worker: bool = True) -> list[Step]:
        """What `converge` would do now."""
        return reconcile_export(UID, wanted, lio.read(self.root, UID), worker)

    def do(self, step: Step) -> None:
        path = self.root / step.path
        backstore = self.root / backstore_path(UID)
        if step.kind is Kind.MKDIR:
            assert path.parent.is_dir(), f"{step}: no parent"
            path.mkdir()
            self._populate(path)
        elif step.kind is Kind.WRITE:
            assert path.is_file(), f"{step}: no such file"
            if path.parent.name == "attrib" and path.parent.parent == backstore and path.name != "emulate_pr":
                assert (backstore / "enable").read_text() == "0", f"{step}: set before enabling"
            if path == backstore / "control" and step.value.startswith("dev_size="):
                (backstore / "attrib/dev_size").write_text(step.value[9:])
            path.write_text(step.value)
        elif step.kind is Kind.LINK:
            assert (self.root / step.value).is_dir(), f"{step}: nothing to link"
            path.symlink_to(self.root / step.value)
        elif step.kind is Kind.UNLINK:
            path.unlink()
            if path.parent.parent.parent.name == "acls":
                self.register("")
        else:
            self._remove(path)

    def register(self, registered: str) -> None:
        """As an initiator that registers; nobody is registered any more where it is empty."""
        text = f"SPC-3 PR Registrations:\n{registered or 'None'}\n"
        (self.root / backstore_path(UID) / "pr/res_pr_registered_i_pts").write_text(text)

    def _populate(self, path: Path) -> None:
        names: tuple[str, ...] = ()
        if path.parent.name == "user_4868":
            names = (
                "control",
                "attrib/dev_size",
                "action/block_dev",
                "action/reset_ring",
                "wwn/vpd_unit_serial",
            )
            names += tuple(f"attrib/{n}" for n in ("cmd_time_out", "qfull_time_out", "emulate_write_cache"))
            names += ("attrib/emulate_pr", "enable", "udev_path", *lio.RESERVATION_FILES[1:])
            names += ("alua/default_tg_pt_gp/alua_access_state",)
        elif path.name.startswith("tpgt_"):
            names = (*(f"attrib/{name}" for name in lio.GROUP_ATTRIBUTES), "enable", "param/TargetAlias")
            for folder in ("np", "lun", "acls"):
                (path / folder).mkdir()
        elif path.parent.name == "acls":
            names = ("auth/userid", "auth/password", "info")
            names += ("attrib/nopin_timeout", "attrib/nopin_response_timeout")
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text("0" if name == "enable" else "")

    def _remove(self, path: Path) -> None:
        for entry in sorted(path.rglob("*"), reverse=True):
            inside = entry.relative_to(path).parts
            # What users made must be gone; what the kernel made goes along.
            assert not entry.is_symlink(), f"{path}: {entry} is still linked"
            made = inside[0].startswith(("lun_", "tpgt_")) or (
                inside[0] in ("lun", "acls", "np") and len(inside) > 1
            )
            assert not made or not entry.is_dir(), f"{path}: {entry} is still there"
            waits = path.parent.name in ("acls", "user_4868") or path.name.startswith("tpgt_")
            backstore = self.root / backstore_path(UID)
            if waits and not self.worker and (backstore / "enable").exists():
                blocked = (backstore / "action/block_dev").read_text() == "1"
                assert blocked or (backstore / "enable").read_text() == "0", f"{path}: would hang"
            entry.rmdir() if entry.is_dir() else entry.unlink()
        path.rmdir()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLio:
    fake = FakeLio(tmp_path)

    def do(_root: Path, step: Step) -> None:
        if fake.fail_after is not None:
            fake.fail_after -= 1
            if fake.fail_after < 0:
                raise OSError(5, "injected")
        fake.do(step)

    monkeypatch.setattr(lio, "_do", do)
    return fake


@pytest.mark.parametrize("group", [1, 2, 3])
def test_a_host_exports_under_its_own_tag(fake: FakeLio, group: int) -> None:
    mine = dataclasses.replace(SERVED, group=group)
    fake.converge(UID, mine, True)
    assert (fake.root / group_path(UID, group) / "enable").read_text() == "1"
    assert fake.steps(mine) == []
    present = lio.read(fake.root, UID)
    assert present.groups == (group,) and present.acls[0].nopin == ("3", "5")
    fake.converge(UID, None, True)
    assert not (fake.root / target_path(UID)).exists()


def test_after_a_cold_start_every_session_ends_once(fake: FakeLio) -> None:
    fake.converge(UID, SERVED, True)
    cold = dataclasses.replace(SERVED, cold_epoch=7)
    group = group_path(UID, 1)
    assert fake.steps(cold) == [
        Step(Kind.WRITE, f"{group}/enable", "0"),
        Step(Kind.WRITE, f"{group}/param/TargetAlias", cold.alias),
        Step(Kind.WRITE, f"{group}/enable", "1"),
    ]
    assert "," not in cold.alias, "LIO would take it for a list"
    for first in ("0", cold.alias, "1"):
        assert fake.steps(cold)[0].value == first
        for done in (0, 1):
            fake.fail_after = done
            if first != "1":
                with pytest.raises(Unavailable):
                    fake.converge(UID, cold, True)
    fake.fail_after = None
    fake.converge(UID, cold, True)
    assert fake.steps(cold) == [] and (fake.root / group / "enable").read_text() == "1"
    # The next epoch is not cold: nobody is sent away.
    assert fake.steps(SERVED) == []
    # What is exported for the first time had no sessions, and is marked all the same.
    fake.converge(UID, None, True)
    assert not any(step.path.endswith("enable") and step.value == "0" for step in fake.steps(cold))
    # While no worker serves, sessions would wait for their commands in vain.
    assert fake.steps(dataclasses.replace(cold, serve=False), worker=False) == []


REGISTERED = (
    "iSCSI Node: iqn.2026-01.com.example:alice,i,0x00023d000001 Key: 0x0000000000abc123 PRgen: 0x00000000"
)
RESERVING = dataclasses.replace(SERVED, reserving_epoch=5)


def _values(steps: list[Step]) -> list[str]:
    return [f"{step.path.rpartition('/')[2]}={step.value}" for step in steps]


def test_only_a_primary_keeps_reservations_and_only_its_own(fake: FakeLio) -> None:
    fake.converge(UID, SERVED, True)
    mark = "alias=holdfast reservations since epoch {} seen in epoch {}".format
    assert _values(fake.steps(RESERVING)) == [mark(5, 5), "emulate_pr=1"]
    fake.converge(UID, RESERVING, True)
    fake.register(REGISTERED)
    assert fake.steps(RESERVING) == []
    # The next epoch: nobody else can have been the primary in between.
    assert _values(fake.steps(dataclasses.replace(RESERVING, reserving_epoch=6))) == [mark(5, 6)]
    # Not the primary any more: they bind no more at once, whoever serves, and are gone before the next time.
    assert _values(fake.steps(dataclasses.replace(SERVED, serve=False), worker=False)) == ["emulate_pr=0"]
    link = f"{group_path(UID, 1)}/acls/{ALICE.initiator}/lun_0/holdfast"
    off, *wipe = fake.steps(SERVED)
    assert off.value == "0" and off.path.endswith("emulate_pr")
    assert [step.kind for step in wipe] == [Kind.WRITE, Kind.UNLINK, Kind.LINK, Kind.WRITE]
    assert [step.path for step in wipe[1:3]] == [link, link] and (wipe[0].value, wipe[3].value) == ("0", "1")
    # An agent that was away for two changes of the epoch does not know whose they are.
    later = fake.steps(dataclasses.replace(RESERVING, reserving_epoch=7))
    assert later[:-2] + later[-1:] == wipe and _values(later)[-2] == mark(7, 7)
    fake.converge(UID, SERVED, True)
    assert fake.steps(SERVED) == [] and fake.steps(RESERVING) != []
    assert not lio.read(fake.root, UID).reservations.found


def test_what_the_kernel_says_of_reservations() -> None:
    none = ("SPC-3 PR Registrations:\nNone\n", "No SPC-3 Reservation holder\n")
    assert read_reservations("0\n", "\n", *none) == Reservations() == read_reservations("", "", "", "")
    held = ("", "", none[0], "SPC-2 Reservation: iSCSI Initiator: iqn.2026-01.com.example:alice\n")
    assert read_reservations(*held) == Reservations(found=True)
    unkept = ("0\n", "\n", none[0], "SPC_RESERVATIONS_DISABLED\n")
    assert read_reservations(*unkept) == Reservations(), "a mirror's: or its sessions would end at a takeover"
    mark = Tenure(3, 9).mark + "\n"
    assert read_reservations("1\n", mark, REGISTERED, none[1]) == Reservations(True, True, Tenure(3, 9))
    assert read_reservations("1\n", "somebody's own words\n", *none).tenure == Tenure(0, 0)


@pytest.mark.parametrize(
    ("epoch", "since"), [(9, 3), (10, 3), (11, 11), (8, 8), (1, 1)]
)  # fmt: skip
def test_a_tenure_goes_on_from_one_epoch_to_the_next(epoch: int, since: int) -> None:
    assert Reservations(True, True, Tenure(3, 9)).in_epoch(epoch) == Tenure(since, epoch)
    assert Reservations().in_epoch(epoch) == Tenure(epoch, epoch), "the first one begins where it begins"
    assert Reservations(True, True, Tenure(3, 9)).stale(epoch) == (since != 3)


def test_what_the_kernel_wrote_of_a_volume_goes_with_it(fake: FakeLio, tmp_path: Path) -> None:
    written = tmp_path / "dbroot-folder"
    (written / "pr").mkdir(parents=True)
    (fake.root / "dbroot").write_text(f"{written}\n")
    fake.converge(UID, RESERVING, True)
    file = written / f"pr/aptpl_{UID}"
    file.touch()
    fake.converge(UID, None, True)
    assert file.exists()
    fake.converge(UID, None, False)
    assert not file.exists()


def test_the_kernel_tells_every_initiator_of_changed_paths_once(fake: FakeLio) -> None:
    fake.converge(UID, SERVED, True)
    shown = dataclasses.replace(SERVED, paths="1:2 2:0")
    told = ["alua_access_state=1", "alua_access_state=0", "udev_path=holdfast paths 1:2 2:0"]
    assert _values(fake.steps(shown)) == told
    for done in range(3):
        fake.fail_after = done
        with pytest.raises(Unavailable):
            fake.converge(UID, shown, True)
        assert _values(fake.steps(shown)) == told, "sooner twice than never"
    fake.fail_after = None
    fake.converge(UID, shown, True)
    assert fake.steps(shown) == fake.steps(SERVED) == []
    assert _values(fake.steps(dataclasses.replace(SERVED, paths="1:0 2:2")))[:2] == told[:2]


LOGGED_IN = """InitiatorName: iqn.2026-01.com.example:alice
InitiatorAlias: compute
LIO Session ID: 1   ISID: 0x00 02 3d 00 00 00  TSIH: 1  SessionType: Normal
Session State: TARG_SESS_STATE_LOGGED_IN
---------------------[iSCSI Session Values]-----------------------
  CmdSN/WR  :  CmdSN/WC  :  ExpCmdSN  :  MaxCmdSN  :     ITT    :     TTT
 0x00000010   0x00000080   0x0000001b   0x0000009a   0x00000000   0x00000001
----------------------[iSCSI Connections]-------------------------
CID: 0  Connection State: TARG_CONN_STATE_LOGGED_IN
   Address 10.0.0.3 TCP  StatSN: 0x00000001
"""
NOBODY = "No active iSCSI Session for Initiator Endpoint: iqn.2026-01.com.example:alice\n"


@pytest.mark.parametrize(
    ("info", "wanted"),
    [
        (LOGGED_IN, True),
        (NOBODY, False),
        (LOGGED_IN.replace("SESS_STATE_LOGGED_IN", "SESS_STATE_FAILED"), False),
        (LOGGED_IN.replace("CONN_STATE_LOGGED_IN", "CONN_STATE_CLEANUP_WAIT"), False),
        (LOGGED_IN.split("CID")[0], False),
        (LOGGED_IN + "CID: 1  Connection State: TARG_CONN_STATE_IN_LOGIN\n", True),
        ("", False),
    ],
)
def test_who_is_logged_in(fake: FakeLio, info: str, wanted: bool) -> None:
    assert logged_in(info) is wanted
    assert fake.logged_in(UID) == frozenset()
    fake.converge(UID, dataclasses.replace(SERVED, acls=(ALICE, BOB)), True)
    (fake.root / group_path(UID, 1) / f"acls/{ALICE.initiator}/info").write_text(info)
    assert fake.logged_in(UID) == (frozenset((ALICE.initiator,)) if wanted else frozenset())


def test_from_nothing_to_served_to_nothing(fake: FakeLio) -> None:
    fake.converge(UID, PLAIN, False)
    assert fake.steps(PLAIN) == []
    assert not (fake.root / target_path(UID)).exists()
    fake.converge(UID, SERVED, True)
    assert fake.steps(SERVED) == []
    group = fake.root / group_path(UID, 1)
    assert (group / "attrib/authentication").read_text() == "1"
    assert (group / "attrib/demo_mode_discovery").read_text() == "0"
    assert (group / f"acls/{ALICE.initiator}/auth/password").read_text() == ALICE.chap_secret
    assert fake.volumes() == {UID}
    fake.converge(UID, None, True)
    assert not (fake.root / target_path(UID)).exists() and fake.volumes() == {UID}
    fake.converge(UID, None, False)
    assert fake.volumes() == set()
    assert fake.steps(None) == []
    # Strangers' objects are as they were.
    assert (fake.root / "core/fileio_0/other").is_dir()
    assert (fake.root / "iscsi/iqn.2003-01.org.linux-iscsi:x").is_dir()


STATES: list[Export | None] = [
    None,
    PLAIN,
    SERVED,
    dataclasses.replace(SERVED, acls=()),
    dataclasses.replace(SERVED, acls=(BOB, ALICE)),
    dataclasses.replace(SERVED, acls=(dataclasses.replace(ALICE, chap_secret="other-secret"),)),
    dataclasses.replace(SERVED, acls=(dataclasses.replace(ALICE, lun=3),)),
    dataclasses.replace(SERVED, portal="10.0.0.2:3260"),
    dataclasses.replace(SERVED, group=2),
    dataclasses.replace(SERVED, size_bytes=2 << 30),
    dataclasses.replace(SERVED, reserving_epoch=5),
    dataclasses.replace(SERVED, reserving_epoch=8),
]


MOVES = [(0, 2), (2, 0), (2, 3), (2, 4), (4, 5), (5, 6), (6, 7), (2, 8), (8, 9), (10, 2), (10, 11)]


@pytest.mark.parametrize(
    ("before", "after", "worker"),
    [(before, after, True) for before, after in MOVES] + [(4, 0, False), (4, 2, False), (8, 1, False)],
)
def test_stopped_after_any_step_it_arrives_all_the_same(
    fake: FakeLio, before: int, after: int, worker: bool
) -> None:
    """From one state to another, interrupted after each step in turn, with and without a worker."""
    stop_after = 0
    while True:
        fake.worker, fake.fail_after = True, None
        fake.converge(UID, STATES[before], True)
        if STATES[before]:
            fake.register(REGISTERED)
        fake.worker, fake.fail_after = worker, stop_after
        try:
            fake.converge(UID, STATES[after], worker)
            break
        except lio.Unavailable:
            stop_after += 1
        fake.worker, fake.fail_after = True, None
        fake.converge(UID, STATES[after], True)
        assert fake.steps(STATES[after]) == []
        stays = worker and STATES[after] is not None and before in (2, 10)
        assert not (stays and lio.read(fake.root, UID).reservations.stale(STATES[after].reserving_epoch))


def test_without_a_worker_nothing_is_exported_but_who_must_go_goes(fake: FakeLio) -> None:
    fake.converge(UID, dataclasses.replace(SERVED, acls=(ALICE, BOB)), True)
    fake.worker = False
    wanted = dataclasses.replace(SERVED, acls=(BOB,))
    steps = fake.steps(wanted, False)
    fake.converge(UID, wanted, False)
    assert not (fake.root / group_path(UID, 1) / "acls" / ALICE.initiator).exists()
    assert (fake.root / group_path(UID, 1) / "acls" / BOB.initiator).exists()
    assert [step.path.rpartition("/")[2] for step in steps[:2]] == ["block_dev", "reset_ring"]


def test_nobody_can_log_in_before_the_acl_is_whole() -> None:
    steps = reconcile_export(UID, SERVED, Present(), True)
    paths = [step.path for step in steps]
    acl = f"{group_path(UID, 1)}/acls/{ALICE.initiator}"
    order = [
        f"{backstore_path(UID)}/attrib/cmd_time_out",
        f"{backstore_path(UID)}/enable",
        f"{group_path(UID, 1)}/attrib/authentication",
        f"{acl}/auth/password",
        f"{acl}/lun_0",
        f"{group_path(UID, 1)}/np/10.0.0.1:3260",
        f"{group_path(UID, 1)}/enable",
    ]
    assert sorted(order, key=paths.index) == order


def test_secrets_are_not_shown() -> None:
    steps = reconcile_export(UID, SERVED, Present(), True)
    shown = " ".join([str(step) for step in steps]) + repr(SERVED)
    assert ALICE.chap_secret not in shown and ALICE.chap_user in shown


def test_names_follow_from_the_uid() -> None:
    assert target_path(UID).endswith(ids.target_iqn(UID))


def test_no_lio_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoLio, match="cannot export volumes") as caught:
        Lio(tmp_path / "target").prepare()
    assert caught.value.reason == "NO_LIO"


def test_a_modprobe_that_hangs_is_a_kernel_without_lio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host can still be a mirror."""

    def hangs(words: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(words, 30)

    monkeypatch.setattr("holdfast.target.lio.subprocess.run", hangs)
    with pytest.raises(NoLio, match="modprobe has not ended"):
        Lio(tmp_path / "target").prepare()


def test_a_fenced_export_ends_its_sessions_and_opens_again(fake: FakeLio) -> None:
    fake.converge(UID, SERVED, True)
    fenced = dataclasses.replace(SERVED, fenced=True)
    enable = f"{group_path(UID, 1)}/enable"
    assert fake.steps(fenced) == [Step(Kind.WRITE, enable, "0")]
    fake.converge(UID, fenced, True)
    assert fake.steps(fenced) == []
    assert fake.steps(SERVED) == [Step(Kind.WRITE, enable, "1")]


def test_it_ends_them_also_without_a_worker_once_what_they_wait_for_is_answered(fake: FakeLio) -> None:
    fake.converge(UID, SERVED, True)
    fenced = dataclasses.replace(SERVED, fenced=True, serve=False)
    steps = fake.steps(fenced, worker=False)
    assert [step.path.rpartition("/")[2] for step in steps] == ["block_dev", "reset_ring", "enable"]
    fake.converge(UID, fenced, False)
    assert fake.steps(fenced, worker=False) == [], "once"
    assert fake.steps(SERVED)[-1].value == "1", "it opens again with the next worker"
