"""multiprocessing.shared_memory in the roles of bench/src/peers.rs: a file a buffer.

    shared_memory.py work NAME           makes, writes and unlinks, until it is killed
    shared_memory.py next NAME           does so once
    shared_memory.py frag NAME           the plan comes on standard input
    shared_memory.py share NAME BYTES    cycles with a process of its own; counts on standard input
"""

import os
import random
import socket
import subprocess
import sys
import time
from multiprocessing import resource_tracker, shared_memory

PAGE = 4096


def status(field):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    return 0


def touch(block, size):
    pages = (size + PAGE - 1) // PAGE
    block.buf[0 : pages * PAGE : PAGE] = b"\1" * pages


def work(name):
    turn = 0
    while True:
        turn += 1
        block = shared_memory.SharedMemory(f"{name}-{turn}", create=True, size=PAGE << random.randrange(7))
        block.buf[0] = 1
        block.close()
        block.unlink()
        if turn == 1:
            print("ready", flush=True)


def next_user(name):
    block = shared_memory.SharedMemory(f"{name}-next", create=True, size=64 << 10)
    touch(block, 64 << 10)
    block.close()
    block.unlink()
    print("leaked=0")


def frag(name):
    pool, wanted, count, _ = map(int, sys.stdin.readline().split())
    numbers = list(map(int, sys.stdin.read().split()))
    sizes, gone = numbers[:count], numbers[count:]
    address, files = status("VmSize"), len(os.listdir("/proc/self/fd"))
    turn = 0

    def take(size):
        nonlocal turn
        turn += 1
        return shared_memory.SharedMemory(f"{name}-{turn}", create=True, size=size)

    def give(block):
        block.close()
        block.unlink()

    live = [take(size) for size in sizes]
    for block, size in zip(live, sizes):
        touch(block, size)
    for at in gone:
        give(live[at])
        live[at] = None
    held = sum(size for block, size in zip(live, sizes) if block)
    free = pool - held
    wanted = min(wanted, free)
    start = time.perf_counter_ns()
    block = take(wanted)
    touch(block, wanted)
    ns = time.perf_counter_ns() - start
    address = status("VmSize") - address
    memory, in_use = status("RssShmem"), held + wanted
    # The tracker's pipe is one of them.
    files = len(os.listdir("/proc/self/fd")) - files
    give(block)
    give(take(free))
    for block in live:
        if block:
            give(block)
    print(
        f"served=1 largest={free} free={free} address={address} memory={memory} "
        f"in_use={in_use} files={files} ns={ns}"
    )


def share(name, size):
    here, there = socket.socketpair()
    child = subprocess.Popen([sys.executable, __file__, "read", name, str(size)], stdin=there)
    there.close()
    expected = {}
    turn = 0
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter_ns()
        for _ in range(count):
            turn += 1
            byte = turn % 255 + 1
            pattern = expected.setdefault(byte, bytes([byte]) * size)
            block = shared_memory.SharedMemory(f"{name}-{turn}", create=True, size=size)
            block.buf[:size] = pattern
            here.sendall(block.name.encode().ljust(64))
            answer = here.recv(8, socket.MSG_WAITALL)
            assert answer == pattern[:8], "what the child has read"
            block.close()
            block.unlink()
        print((time.perf_counter_ns() - start) / count, flush=True)
    here.close()
    child.wait()


def read(_name, size):
    """Python has no quick sum: the other process reads all bytes by one copy."""
    parent = socket.socket(fileno=os.dup(0))
    while len(name := parent.recv(64, socket.MSG_WAITALL)) == 64:
        block = shared_memory.SharedMemory(name.decode().strip())
        # Or its tracker would unlink, at exit, what it only opened (cpython issue 82300).
        resource_tracker.unregister(block._name, "shared_memory")
        copy = bytes(block.buf)
        assert copy[:1] == copy[size - 1 : size]
        block.close()
        parent.sendall(copy[size - 8 : size])


if __name__ == "__main__":
    role, spot = sys.argv[1], sys.argv[2]
    if role == "work":
        work(spot)
    elif role == "next":
        next_user(spot)
    elif role == "frag":
        frag(spot)
    elif role == "share":
        share(spot, int(sys.argv[3]))
    elif role == "read":
        read(spot, int(sys.argv[3]))
