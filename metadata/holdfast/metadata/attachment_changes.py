"""What a host does to an attachment's records: each a decision over a draft (see cas.py)."""

from holdfast.api.records.v1 import records_pb2 as r
from holdfast.metadata import keys
from holdfast.metadata.assigned import Assignments, check_owner
from holdfast.metadata.cas import Draft
from holdfast.metadata.derived import settle_state
from holdfast.metadata.replica_record import record_of


def became_ready(draft: Draft, volume_uid: str, attachment_uid: str, host_id: str, epoch: int) -> bool:
    """PENDING → READY: the primary exports it, the initiator can log in. False if it was, or is moot."""
    check_owner(draft, volume_uid, host_id, epoch)
    return path_ready(draft, volume_uid, attachment_uid, host_id, True)


def path_ready(draft: Draft, volume_uid: str, attachment_uid: str, host_id: str, ready: bool) -> bool:
    """Any assigned host exports it now, or no longer does: it says so, whatever its role.

    With the primary's host among them the attachment is READY; it stays so. False if that was recorded,
    or is moot: the host is not assigned, or there is no such attachment.
    """
    replica = record_of(draft, volume_uid)
    key = keys.attachment(volume_uid, attachment_uid)
    attachment = draft.get(key, r.AttachmentRecord)
    if attachment is None or host_id not in replica.host_ids:
        return False
    others = [one for one in attachment.ready_host_ids if one != host_id]
    if attachment.state == r.ATTACHMENT_STATE_DETACHING and ready:
        return False
    attachment.ready_host_ids[:] = sorted([*others, host_id]) if ready else others
    settle_state(attachment, replica.primary_host_id)
    return draft.put(key, attachment)


def waits(draft: Draft, volume_uid: str, attachment_uid: str, host_id: str, epoch: int, reason: str) -> bool:
    """Say why an attachment is not yet READY, or not yet gone: one sentence."""
    check_owner(draft, volume_uid, host_id, epoch)
    key = keys.attachment(volume_uid, attachment_uid)
    attachment = draft.get(key, r.AttachmentRecord)
    if attachment is None or attachment.state == r.ATTACHMENT_STATE_READY:
        return False
    attachment.reason = reason
    return draft.put(key, attachment)


def detached(draft: Draft, volume_uid: str, attachment_uid: str, host_id: str, epoch: int) -> bool:
    """The primary no longer exports it: drop it everywhere and free its name. False if it was gone.

    Only one that is DETACHING goes: another is left as it is, and False is returned.
    """
    check_owner(draft, volume_uid, host_id, epoch)
    key = keys.attachment(volume_uid, attachment_uid)
    attachment = draft.get(key, r.AttachmentRecord)
    if attachment is not None and attachment.state != r.ATTACHMENT_STATE_DETACHING:
        return False
    assignments = Assignments.read(draft, volume_uid)
    assignments.drop_attachment(attachment_uid)
    assignments.save(draft)
    if attachment is None:
        return False
    name_key = keys.name("attachments", attachment.owner, attachment.attachment_id)
    name = draft.get(name_key, r.NameRecord)
    if name is not None and name.uid == attachment_uid:
        draft.delete(name_key)
    draft.delete(key)
    return True
