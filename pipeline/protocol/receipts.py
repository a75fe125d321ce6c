"""Receipts of an edge: what became of a message that an operator has published for its site."""

from __future__ import annotations

from pipeline.protocol.client_budgets import ClientBudgets
from pipeline.protocol.edge_reports import EdgeReports, reply_wire_bytes
from pipeline.protocol.effects import ReplyTo
from pipeline.protocol.ports import Received
from schemas import topics
from schemas.errors import RemoteError
from schemas.limits import MAX_CORRELATION_BYTES, MAX_RECEIPT_CHARS
from schemas.messages import Receipt
from schemas.printable import as_reason


class Receipts:
    """Tells senders, within what each of them may be told.

    Args:
        site: this edge.
        reports: what the edge says.
        budgets: what each client may be told.
    """

    def __init__(self, site: str, reports: EdgeReports, budgets: ClientBudgets) -> None:
        self._site = site
        self._reports = reports
        self._budgets = budgets

    def tell(self, received: Received, about: str, now_s: float, *, accepted: bool, reason: str) -> None:
        """Tell the sender of a message what became of it, if it has said where.

        Args:
            received: the message.
            about: id of what it is about.
            now_s: the edge's monotonic time.
            accepted: whether it took effect.
            reason: why not, or what it changed.
        """
        if received.response_topic is None or len(received.correlation_data or b"") > MAX_CORRELATION_BYTES:
            return
        try:
            topic = topics.parse(received.response_topic)
        except RemoteError:
            return
        if topic.family is not topics.Family.RECEIPT or topic.name("site") != self._site:
            return
        said = as_reason(reason, MAX_RECEIPT_CHARS)
        receipt = Receipt(site=self._site, about=about, accepted=accepted, reason=said)
        address = ReplyTo(received.response_topic, received.correlation_data)
        if self._budgets.say(topic.name("client"), reply_wire_bytes(receipt, address), now_s):
            self._reports.receipt(receipt, address)
