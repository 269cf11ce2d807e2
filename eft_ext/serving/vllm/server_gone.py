"""An engine that ends with its server: when one of vLLM 0.32 is killed, its engine runs on and keeps its memory."""

from __future__ import annotations

import os
import signal
import time
from threading import Thread

SERVER = "EFT_SERVER_PID"  # set by a server, for the engine that it starts


def end_with_server(interval: float = 1.0, grace: float = 5.0) -> None:
    """Lets this process end once the server that started it is gone. Does nothing in other processes.

    The processes that an engine starts end with the engine, as vLLM has it.

    Args:
        interval: seconds between two looks.
        grace: seconds for vLLM to end by SIGTERM; then comes SIGKILL.
    """
    server = os.environ.get(SERVER)
    if server == str(os.getppid()):
        Thread(target=_end, args=(int(server), interval, grace), daemon=True).start()


def _end(server: int, interval: float, grace: float) -> None:
    while os.getppid() == server:
        time.sleep(interval)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)
