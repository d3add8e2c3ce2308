"""The processes of the production server: what each may open, and how they end."""

import asyncio
import os
import signal
import sys
import time
from functools import partial
from multiprocessing import parent_process
from threading import Thread

from routes.setup.front import Front

if sys.platform != "win32":
    import resource

STOP_SECONDS = 30  # for what is under way when the server is told to stop
FLUSH_SECONDS = 3  # for the last answers to reach their clients
CONNECTIONS = 10_000  # that a process holds, idle ones among them


def connections() -> int:
    """How many connections a process can hold, after allowing it as many open files as it may have."""
    if sys.platform == "win32":
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS + 1000 if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS + 1000)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else min(CONNECTIONS, max(soft, most) - 200)


def fork_deaf_to_others() -> None:
    """Have workers begin without the first process's handlers, which would swallow a TERM that comes early."""
    if not hasattr(os, "register_at_fork"):
        return
    block, unblock = signal.SIG_BLOCK, signal.SIG_UNBLOCK
    ours = {signal.SIGINT, signal.SIGTERM}

    def begin() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(unblock, ours)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(block, ours),
        after_in_parent=lambda: signal.pthread_sigmask(unblock, ours),
        after_in_child=begin,
    )


def settle_worker(front: Front) -> None:
    """What a worker does first, before Granian sets its loop going."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C is for the first process alone, which tells the others
    Thread(target=end_with_parent, daemon=True).start()
    loop = asyncio.get_event_loop()
    loop.call_soon(loop.add_signal_handler, signal.SIGTERM, partial(stop, loop, front))


def stop(loop: asyncio.AbstractEventLoop, front: Front) -> None:
    """Finish what is under way. Told twice, Granian hangs; and it waits for clients who have not asked for anything."""
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    signal.raise_signal(signal.SIGINT)
    front.app.extensions["ticker"].stop()
    loop.create_task(end_when_idle(front))


async def end_when_idle(front: Front) -> None:
    while front.calls:
        await asyncio.sleep(0.1)
    await asyncio.sleep(FLUSH_SECONDS)
    os._exit(0)


def end_with_parent() -> None:
    """When the first process is killed, its workers end too, and leave the port."""
    parent = parent_process()
    while parent and os.getppid() == parent.pid:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)
