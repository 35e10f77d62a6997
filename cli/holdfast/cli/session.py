"""One connection for one command: calls, pages, and errors that say what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

import click
import grpc
from google.protobuf.message import Message

from holdfast.base.errors import HoldfastError, Unavailable
from holdfast.base.tls import TlsFiles
from holdfast.cli.settings import Settings
from holdfast.metadata.client import Client, connect, open_channel
from holdfast.metadata.statuses import error_of

CALL_TIMEOUT_S = 30.0
PAGE_ITEMS = 500
_R = TypeVar("_R", bound=Message)


class Session:
    """Made from the settings; connects when first used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def client(self) -> Client:
        server, tls = self._settings.connection()
        return connect(server, tls)

    @property
    def tls(self) -> TlsFiles:
        """Our certificate's files."""
        return self._settings.connection()[1]

    def open(self, address: str) -> grpc.Channel:
        """A channel to another service, as who we are; its user closes it."""
        return open_channel(address, self.tls)

    def call(self, method: Callable[..., _R], request: Message) -> _R:
        """One call; raises the HoldfastError that the service answered."""
        try:
            return method(request, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            raise self.explain(error) from error

    def pages(self, method: Callable[..., _R], request: Any) -> _R:
        """All pages of a list as one response, without a token."""
        request.page_size = PAGE_ITEMS
        whole: Any = self.call(method, request)
        while whole.next_page_token:
            request.page_token = whole.next_page_token
            whole.next_page_token = ""
            whole.MergeFrom(self.call(method, request))
        return whole  # type: ignore[no-any-return]

    def explain(self, error: grpc.RpcError) -> HoldfastError:
        """What a failed call means; looks at our own certificate if the service did not answer."""
        meant = error_of(error)
        if meant.reason != "SERVER_UNREACHABLE":
            return meant
        server, tls = self._settings.connection()
        why = _certificate_trouble(tls)
        if why is None and "CERTIFICATE_VERIFY_FAILED" in meant.message:
            why = f"its certificate is not of the authority in {tls.ca}"
        if why is None:
            why = f"is it running, and is your certificate of its authority? ({error.details()})"
        return Unavailable("SERVER_UNREACHABLE", f"The metadata service at {server} cannot be used: {why}")


def _certificate_trouble(tls: TlsFiles) -> str | None:
    """What is wrong with our certificate's dates, if anything is."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    except (OSError, ValueError) as error:
        return f"{tls.certificate} is not a certificate: {error}"
    now = datetime.now(UTC)
    if now >= certificate.not_valid_after_utc:
        return (
            f"your certificate {tls.certificate} expired at {certificate.not_valid_after_utc}: get a new one"
        )
    if now < certificate.not_valid_before_utc:
        return f"your certificate {tls.certificate} is valid only from {certificate.not_valid_before_utc}"
    return None


@contextmanager
def session() -> Iterator[Session]:
    """The session of the running command."""
    settings = click.get_current_context().find_object(Settings)
    assert settings is not None
    made = Session(settings)
    try:
        yield made
    finally:
        if "client" in made.__dict__:
            made.client.close()
