"""A switch at layer 4: PORT=8000 python tcp_switch.py FILE

Each new connection goes to the port that FILE names at that moment, and stays there.
The switch carries bytes; it does not know what a request is.
"""

import asyncio
import os
import sys
from pathlib import Path


async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side closes."""
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        pass
    finally:
        sink.close()


async def connect(
    client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
) -> None:
    """Serve one connection; its target is chosen once, here."""
    port = int(Path(sys.argv[1]).read_text())
    try:
        server_in, server_out = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        client_out.close()
        return
    await asyncio.gather(carry(client_in, server_out), carry(server_in, client_out))


async def main() -> None:
    """Switch until killed."""
    port = int(os.environ["PORT"])
    server = await asyncio.start_server(connect, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
