"""AttachmentService: see attachment.proto for each method's contract and errors."""

from collections.abc import Iterator, Sequence

from holdfast.api.attachment.v1 import attachment_pb2 as pb
from holdfast.api.attachment.v1 import attachment_pb2_grpc
from holdfast.api.records.v1 import records_pb2 as r
from holdfast.base.errors import DataLoss
from holdfast.base.ids import check_initiator, check_name, new_uid
from holdfast.metadata import attachment_decisions, keys
from holdfast.metadata.caller import Caller
from holdfast.metadata.lookups import attachment_of
from holdfast.metadata.pages import page_size, read_token
from holdfast.metadata.rpc import stream, unary
from holdfast.metadata.seal import SERVICE, public_key, unseal
from holdfast.metadata.service import AtEnd, Service
from holdfast.metadata.views import attachment_view


class AttachmentServicer(attachment_pb2_grpc.AttachmentServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    @unary
    def CreateAttachment(
        self, request: pb.CreateAttachmentRequest, caller: Caller
    ) -> pb.CreateAttachmentResponse:
        check_name("attachment", request.attachment_id)
        new = attachment_decisions.NewAttachment(
            owner=caller.name,
            attachment_id=request.attachment_id,
            volume_id=request.volume_id,
            initiator_iqn=check_initiator(request.initiator_iqn),
            uid=new_uid(),
            secret=attachment_decisions.new_secret(),
            service_public_key=public_key(self._service.seal_key),
            now_s=self._service.clock(),
        )
        attachment, created = self._service.run(lambda draft: attachment_decisions.create(draft, new))
        return pb.CreateAttachmentResponse(attachment=self._with_secret(attachment), created=created)

    @unary
    def GetAttachment(self, request: pb.GetAttachmentRequest, caller: Caller) -> pb.GetAttachmentResponse:
        attachment = self._find(request.attachment_id, caller)
        return pb.GetAttachmentResponse(attachment=self._with_secret(attachment))

    @unary
    def ListAttachments(
        self, request: pb.ListAttachmentsRequest, caller: Caller
    ) -> pb.ListAttachmentsResponse:
        def resolve(named: list[tuple[str, r.NameRecord]]) -> list[r.AttachmentRecord | None]:
            wanted = [keys.attachment(name.volume_uid, name.uid) for _, name in named]
            return [
                one if one and request.volume_id in ("", one.volume_id) else None
                for one in self._service.records(wanted, r.AttachmentRecord)
            ]

        size, after = page_size(request.page_size), read_token(request.page_token)
        prefix = keys.names("attachments", caller.name)
        attachments, token = self._service.page(prefix, size, after, resolve)
        hosts = self._ready_hosts(attachments)
        views = [attachment_view(one, hosts) for one in attachments]
        return pb.ListAttachmentsResponse(attachments=views, next_page_token=token)

    @stream
    def WatchAttachment(
        self, request: pb.WatchAttachmentRequest, caller: Caller, at_end: AtEnd
    ) -> Iterator[pb.WatchAttachmentResponse]:
        first = self._find(request.attachment_id, caller)
        key = keys.attachment(first.volume_uid, first.uid)

        def look() -> pb.Attachment | None:
            (attachment,) = self._service.records([key], r.AttachmentRecord)
            return self._with_secret(attachment) if attachment else None

        for view in self._service.changes([key], look, at_end):
            yield pb.WatchAttachmentResponse(attachment=view, deleted=view is None)

    @unary
    def DeleteAttachment(
        self, request: pb.DeleteAttachmentRequest, caller: Caller
    ) -> pb.DeleteAttachmentResponse:
        changed = self._service.run(
            lambda draft: attachment_decisions.delete(draft, caller.name, request.attachment_id)
        )
        return pb.DeleteAttachmentResponse(changed=changed)

    def _find(self, attachment_id: str, caller: Caller) -> r.AttachmentRecord:
        return self._service.look(lambda draft: attachment_of(draft, caller.name, attachment_id))

    def _with_secret(self, attachment: r.AttachmentRecord) -> pb.Attachment:
        for sealed in attachment.secrets:
            if sealed.recipient == SERVICE:
                secret = unseal(sealed, self._service.seal_key, attachment.uid)
                return attachment_view(attachment, self._ready_hosts([attachment]), secret.decode())
        raise DataLoss("NO_SECRET", f"Attachment {attachment.attachment_id!r} has no secret for the service.")

    def _ready_hosts(self, attachments: Sequence[r.AttachmentRecord]) -> dict[str, r.HostRecord]:
        """The hosts that export any of these now."""
        ids = sorted({host_id for one in attachments for host_id in one.ready_host_ids})
        found = self._service.records([keys.host(host_id) for host_id in ids], r.HostRecord)
        return {host_id: host for host_id, host in zip(ids, found, strict=True) if host is not None}
