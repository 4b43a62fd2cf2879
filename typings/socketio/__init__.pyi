# What Tertulia uses of python-socketio 5.18, which ships no types.
from . import exceptions as exceptions
from . import packet as packet
from .async_client import AsyncClient as AsyncClient
from .simple_client import SimpleClient as SimpleClient
