"""Creating and deleting attachments: decisions over a draft (see cas.py)."""

import secrets
import string
from dataclasses import dataclass

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import AlreadyExists, Exhausted, Precondition
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, timestamp
from holdfast.metadata.cas import Changed, Draft
from holdfast.metadata.lookups import attachment_of, volume_of
from holdfast.metadata.seal import KEY_BYTES, SERVICE, host_recipient, seal

ATTACHMENTS_MAX = 16
"""Of one multi_attach volume."""
LUN = 0
# Some initiators take no CHAP secret above 16 characters; 16 of 62 hold 95 bits.
_SECRET_CHARS = 16
_ALPHABET = string.ascii_letters + string.digits


def new_secret() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))


@dataclass(frozen=True)
class NewAttachment:
    owner: str
    attachment_id: str
    volume_id: str
    initiator_iqn: str
    uid: str
    secret: str
    service_public_key: bytes
    now_s: float

    def __repr__(self) -> str:
        return f"NewAttachment({self.owner}/{self.attachment_id}, {self.uid})"


def create(draft: Draft, new: NewAttachment) -> tuple[r.AttachmentRecord, bool]:
    """The attachment, and whether this very request made it. Errors: AttachmentService."""
    name_key = keys.name("attachments", new.owner, new.attachment_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None:
        existing = draft.get(keys.attachment(name.volume_uid, name.uid), r.AttachmentRecord)
        if existing is None:
            raise Changed
        _check_same(new, existing)
        return existing, name.uid == new.uid
    volume = volume_of(draft, new.owner, new.volume_id)
    if volume.state != r.VOLUME_STATE_AVAILABLE:
        state = r.VolumeState.Name(volume.state).removeprefix("VOLUME_STATE_")
        raise Precondition("NOT_AVAILABLE", f"Volume {new.volume_id!r} is {state}, not AVAILABLE: wait.")
    _check_free(draft, new, volume)
    assignments = Assignments.read(draft, volume.uid)
    attachment = _record(draft, new, volume, assignments)
    draft.put(name_key, r.NameRecord(uid=new.uid, volume_uid=volume.uid))
    draft.put(keys.attachment(volume.uid, new.uid), attachment)
    sealed = {secret.recipient: secret for secret in attachment.secrets}
    for one in assignments.each:
        one.attachments.add(
            uid=new.uid,
            initiator_iqn=new.initiator_iqn,
            lun=attachment.lun,
            chap_user=attachment.chap_user,
            secret=sealed[host_recipient(one.host_id)],
        )
    assignments.save(draft)
    return attachment, True


def delete(draft: Draft, owner: str, attachment_id: str) -> bool:
    """Begin to take an attachment away; the primary's agent does the rest. False if that had begun."""
    attachment = attachment_of(draft, owner, attachment_id)
    if attachment.state == r.ATTACHMENT_STATE_DETACHING:
        return False
    assignments = Assignments.read(draft, attachment.volume_uid)
    for one in assignments.each:
        for assigned in one.attachments:
            if assigned.uid == attachment.uid:
                assigned.detaching = True
    assignments.save(draft)
    attachment.state = r.ATTACHMENT_STATE_DETACHING
    attachment.reason = ""
    return draft.put(keys.attachment(attachment.volume_uid, attachment.uid), attachment)


def _check_same(new: NewAttachment, existing: r.AttachmentRecord) -> None:
    if existing.state == r.ATTACHMENT_STATE_DETACHING:
        raise AlreadyExists(
            "ALREADY_EXISTS", f"Attachment {new.attachment_id!r} is being taken away: wait until it is gone."
        )
    if (existing.volume_id, existing.initiator_iqn) != (new.volume_id, new.initiator_iqn):
        raise AlreadyExists(
            "ALREADY_EXISTS",
            f"You have an attachment {new.attachment_id!r} of another volume or initiator: "
            "choose another id.",
        )


def _check_free(draft: Draft, new: NewAttachment, volume: r.VolumeRecord) -> None:
    """Raise unless the volume may be attached to that initiator now."""
    others = draft.under(keys.attachments(volume.uid), r.AttachmentRecord)
    if others and not volume.multi_attach:
        raise Precondition(
            "ALREADY_ATTACHED",
            f"Volume {new.volume_id!r} has the attachment {others[0].attachment_id!r} and was not made for "
            "several: delete that one first.",
        )
    for one in others:
        if one.initiator_iqn == new.initiator_iqn:
            raise Precondition(
                "ALREADY_ATTACHED",
                f"Attachment {one.attachment_id!r} is of the same volume and initiator: use that one.",
            )
    if len(others) >= ATTACHMENTS_MAX:
        raise Exhausted("TOO_MANY", f"Volume {new.volume_id!r} has {ATTACHMENTS_MAX} attachments, the most.")


def _record(
    draft: Draft, new: NewAttachment, volume: r.VolumeRecord, assignments: Assignments
) -> r.AttachmentRecord:
    attachment = r.AttachmentRecord(
        uid=new.uid,
        attachment_id=new.attachment_id,
        owner=new.owner,
        volume_uid=volume.uid,
        volume_id=volume.volume_id,
        initiator_iqn=new.initiator_iqn,
        state=r.ATTACHMENT_STATE_PENDING,
        target_iqn=volume.target_iqn,
        lun=LUN,
        chap_user=f"hf{new.uid}",
        create_time=timestamp(new.now_s),
    )
    secret = new.secret.encode()
    attachment.secrets.append(seal(secret, SERVICE, new.service_public_key, new.uid))
    for one in assignments.each:
        host = draft.peek(keys.host(one.host_id), r.HostRecord)
        if host is None or len(host.seal_public_key) != KEY_BYTES:
            raise Precondition(
                "NOT_AVAILABLE", "A storage host of the volume has not published its seal key: wait."
            )
        recipient = host_recipient(one.host_id)
        attachment.secrets.append(seal(secret, recipient, host.seal_public_key, new.uid))
        if host.portal:
            attachment.portals.append(host.portal)
    return attachment
