#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kills: of the daemon under load, of clients that hold things, of a client in the middle of a copy. After each: right bytes or a miss."""
import os
import random
import shutil
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness  # noqa: E402
from harness import LONG, SLOW, Daemon, check, loadgen, loadgen_start  # noqa: E402


def flushed_lines(path):
    """How many stores the log says were flushed."""
    stores = flushed = 0
    try:
        with open(path, encoding="ascii") as text:
            for line in text:
                if line.startswith("s"):
                    stores += 1
                else:
                    flushed = stores
    except FileNotFoundError:
        pass
    return flushed


def daemon_killed_under_load():
    # Under a sanitizer each takes six times as long: there it looks for what the sanitizer sees.
    rounds = 1000 if LONG else 20 if SLOW <= 1 else 8
    expected = hits = wrong_rounds = 0
    with Daemon("kill") as daemon:
        for number in range(rounds):
            daemon.start()
            log = os.path.join(daemon.folder, f"log-{number}")
            seed = random.randrange(1 << 30)
            # Capacity holds all of one round: what was flushed must be there.
            clients = [loadgen_start("run", daemon, seed=seed + i, log=f"{log}.{i}", chains=24, blocks=16, seconds=60, flush_every=5,
                                     timeout_ms=3000, random=True) for i in range(2)]
            for client in clients:
                client.stdout.readline()
            time.sleep(random.uniform(0.05, 0.6) * SLOW)
            daemon.kill()
            for client in clients:
                client.send_signal(signal.SIGKILL)
                client.communicate()
            daemon.start()
            for i in range(2):
                if not os.path.exists(f"{log}.{i}"):
                    continue
                figures = loadgen("check", daemon, seed=seed + i, log=f"{log}.{i}", blocks=1)
                expected += figures["expected_flushed"]
                hits += figures["hits_flushed"]
                if figures["load_failed"] != 0:
                    wrong_rounds += 1
                    stats = daemon.stats()
                    check(stats["damaged_blocks"] >= figures["load_failed"], "a match that failed is not counted as damaged")
                os.unlink(f"{log}.{i}")
            daemon.stop()
    check(expected > 0, "nothing was ever flushed: the test shows nothing")
    check(hits >= 0.99 * expected, f"{hits} of {expected} flushed blocks are hits")
    return f"{rounds} kills, {hits} of {expected} flushed blocks hit, no wrong byte, {wrong_rounds} rounds with failed loads"


def client_killed_while_holding():
    hang_ups = []
    with Daemon("hold") as daemon:
        daemon.start()
        loadgen("run", daemon, seed=7, chains=1, blocks=16, requests=1)
        for number in range(200 if LONG else 20):
            fork = number % 2 == 1
            options = {"fork": True} if fork else {}
            client = loadgen_start("hold", daemon, seed=7, chains=1, blocks=16, hold="both", **options)
            line = client.stdout.readline()
            check(line.startswith("holding 16"), f"the client holds nothing: {line!r} {client.stderr.read() if not line else ''}")
            totals = daemon.ask("stat")["totals"]
            check(totals["leased_bytes"] > 0 and totals["reserved_bytes"] > 0, f"nothing is held: {totals}")
            killed_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            client.send_signal(signal.SIGKILL)
            client.wait()
            end = time.monotonic() + 10 * SLOW
            while True:
                stat = daemon.ask("stat")
                totals = stat["totals"]
                if totals["leased_bytes"] == 0 and totals["reserved_bytes"] == 0 and totals["quarantined_bytes"] == 0:
                    break
                check(time.monotonic() < end, f"what a dead client held is not free ({'forked child' if fork else 'no child'}): {totals}")
            hang_ups.append(stat["stats"]["client_gone_at_ns"] - killed_ns)
            if fork:
                os.kill(int(line.split()[2]), signal.SIGKILL)
            client.stdout.close()
            client.stderr.close()
        longest_ms = daemon.stats()["client_gone_longest_ns"] / 1e6
        check(0 < longest_ms <= 10 * SLOW, f"freeing took {longest_ms:.2f} ms after the hang-up")
    return (f"{len(hang_ups)} kills; all free at most {longest_ms:.2f} ms after the hang-up; "
            f"the hang-up came {min(hang_ups) / 1e6:.2f} to {max(hang_ups) / 1e6:.2f} ms after the kill")


def client_stopped_in_a_copy():
    pause = 60 if LONG else 4
    with Daemon("stopped", **{"memory.reserve_deadline": "1s"}) as daemon:
        daemon.start()
        victims = [loadgen_start("run", daemon, seed=11, chains=8, blocks=16, seconds=pause + 6, block_bytes=4 << 20, timeout_ms=120000)
                   for _ in range(2)]
        for victim in victims:
            victim.stdout.readline()
        time.sleep(0.5 * SLOW)
        for victim in victims:
            victim.send_signal(signal.SIGSTOP)
        end = time.monotonic() + pause
        others = 0
        while time.monotonic() < end:
            figures = loadgen("run", daemon, seed=11, chains=8, blocks=16, requests=6, block_bytes=4 << 20, timeout_ms=10000)
            others += figures["requests"]
        for victim in victims:
            victim.send_signal(signal.SIGCONT)
        for victim in victims:
            out, err = victim.communicate(timeout=300 * SLOW)
            check(victim.returncode == 0, f"a client that was stopped ended with {victim.returncode}: {out} {err}")
        loadgen("run", daemon, seed=11, chains=8, blocks=16, requests=16, block_bytes=4 << 20)
        quarantined = daemon.stats()["quarantined_blocks"]
    return f"stopped for {pause} s, {others} requests of others meanwhile, {quarantined} reservations quarantined, no wrong byte"


def epoch_raised_then_killed():
    """Weights change, a kill right behind it, RocksDB gone: nothing old is ever served."""
    rounds = 30 if LONG else 5
    with Daemon("epoch") as daemon:
        for number in range(rounds):
            daemon.start()
            log = os.path.join(daemon.folder, f"log-{number}")
            loadgen("run", daemon, seed=number, chains=8, blocks=16, requests=24, log=log, flush_every=8)
            check(flushed_lines(log) > 0, "nothing was flushed")
            loadgen("epoch", daemon)
            daemon.kill()
            if number % 2 == 0:
                shutil.rmtree(os.path.join(daemon.data_dir, "index"))
            daemon.start()
            figures = loadgen("check", daemon, seed=number, log=log, blocks=1)
            check(figures["expected"] > 0 and figures["hits"] == 0, f"old blocks are served after the epoch was raised: {figures}")
            # The new epoch lives.
            loadgen("run", daemon, seed=number + 1000, chains=1, blocks=16, requests=1)
            again = loadgen("run", daemon, seed=number + 1000, chains=1, blocks=16, requests=1)
            check(again["hits"] == 16, f"nothing can be stored in the new epoch: {again}")
            daemon.stop()
    return f"{rounds} rounds"


def daemon_terminated_flushes():
    with Daemon("term") as daemon:
        daemon.start()
        log = os.path.join(daemon.folder, "stores")
        loadgen("run", daemon, seed=3, chains=8, blocks=16, requests=24, log=log)
        daemon.restart()
        figures = loadgen("check", daemon, seed=3, log=log, blocks=1)
        check(figures["hits"] == figures["loaded"] == figures["expected"] > 0, f"SIGTERM lost blocks: {figures}")
    return f"{figures['expected']} blocks kept"


CASES = {
    "daemon_terminated_flushes": daemon_terminated_flushes,
    "daemon_killed_under_load": daemon_killed_under_load,
    "client_killed_while_holding": client_killed_while_holding,
    "client_stopped_in_a_copy": client_stopped_in_a_copy,
    "epoch_raised_then_killed": epoch_raised_then_killed,
}

if __name__ == "__main__":
    harness.main(CASES)
