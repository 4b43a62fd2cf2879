# What Tertulia uses of python-engineio 4.15, which ships no types.
from . import packet as packet
from . import payload as payload
from .async_server import AsyncServer as AsyncServer
