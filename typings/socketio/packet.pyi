from typing import Any

CONNECT: int
DISCONNECT: int
EVENT: int
ACK: int
CONNECT_ERROR: int
BINARY_EVENT: int
BINARY_ACK: int
packet_names: list[str]

class Packet:
    uses_binary_events: bool
    json: Any
    packet_type: int
    data: Any
    namespace: str | None
    id: int | None
    attachment_count: int
    attachments: list[bytes]
    def __init__(
        self,
        packet_type: int = ...,
        data: Any = None,
        namespace: str | None = None,
        id: int | None = None,
        binary: bool | None = None,
        encoded_packet: str | None = None,
    ) -> None: ...
    def encode(self) -> str | list[str | bytes]: ...
    def decode(self, encoded_packet: str) -> int: ...
    def add_attachment(self, attachment: bytes) -> bool: ...
    @classmethod
    def reconstruct_binary(cls, data: Any, attachments: list[bytes]) -> Any: ...
