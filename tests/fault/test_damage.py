#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Damage to what lies on the disk: every damaged block a miss, counted and logged; every undamaged block still a hit."""
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import harness  # noqa: E402
from harness import SLOW, Daemon, Failure, check, loadgen  # noqa: E402

PAGE = 4096
RECORD_MAGIC = 0x4352564B
HEADER_BYTES = 256
ENTRY_BYTES = 32


class Record:
    def __init__(self, path, offset, header):
        self.path, self.offset = path, offset
        self.bytes = struct.unpack_from("<Q", header, 8)[0]
        self.hash = header[48:80].hex()
        self.sections = struct.unpack_from("<I", header, 124)[0]

    def sections_end(self):
        """Where the last section ends: behind it is padding, which may hold anything."""
        with open(self.path, "rb") as file:
            file.seek(self.offset + HEADER_BYTES + (self.sections - 1) * ENTRY_BYTES)
            entry = file.read(ENTRY_BYTES)
        stored_bytes, offset_64 = struct.unpack_from("<II", entry, 20)
        return offset_64 * 64 + stored_bytes


def segment_files(daemon):
    return sorted(os.path.join(daemon.data_dir, name) for name in os.listdir(daemon.data_dir) if name.startswith("seg-"))


def records(daemon):
    """All records, found by hopping over them as a rebuild does."""
    found = []
    for path in segment_files(daemon):
        with open(path, "rb") as file:
            offset = PAGE
            while True:
                file.seek(offset)
                header = file.read(HEADER_BYTES)
                if len(header) < HEADER_BYTES or struct.unpack_from("<I", header)[0] != RECORD_MAGIC:
                    break
                record = Record(path, offset, header)
                found.append(record)
                offset += record.bytes
    return found


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << random.randrange(8))]))


def fill(daemon, seed, chains=8):
    """Stores chains * 16 blocks and stops the daemon; the log of what was stored."""
    log = os.path.join(daemon.folder, f"stores-{seed}")
    loadgen("run", daemon, seed=seed, chains=chains, blocks=16, requests=chains * 6, log=log, flush_every=8)
    return log


def judge(daemon, seed, log, damaged, what):
    """Reads everything back. damaged: hashes that must not load; all others must."""
    figures = loadgen("check", daemon, seed=seed, log=log, blocks=1, list=True)
    verdicts = figures["blocks"]
    check(len(verdicts) > 0, "nothing was stored")
    lost = [name for name, verdict in verdicts.items() if verdict != "loaded" and name not in damaged]
    served = [name for name, verdict in verdicts.items() if verdict == "loaded" and name in damaged]
    check(not served, f"{what}: {len(served)} damaged blocks are served: {served[:3]}")
    check(not lost, f"{what}: {len(lost)} of {len(verdicts)} undamaged blocks are lost: {[(n, verdicts[n]) for n in lost[:3]]}")
    failed = [name for name, verdict in verdicts.items() if verdict == "failed"]
    counted, said = daemon.stats()["damaged_blocks"], daemon.log()
    check(counted >= len(failed), f"{what}: {len(failed)} loads failed, {counted} counted as damaged")
    # Ten lines of a kind a second are written.
    named = [name for name in failed if f"block {name[:8]}... is damaged" in said]
    check(len(named) > 0 or not failed, f"{what}: the log names none of {len(failed)} damaged blocks")
    return len(verdicts), len(damaged & set(verdicts))


def with_damage(name, damage, told="{damaged} of {blocks} blocks damaged", **options):
    """Stores, stops, damages, starts, judges. damage(daemon) answers the set of hashes that it damaged."""
    seed = random.randrange(1 << 30)
    with Daemon(name, **options) as daemon:
        daemon.start()
        log = fill(daemon, seed)
        daemon.stop()
        damaged = damage(daemon)
        daemon.start()
        blocks, hit = judge(daemon, seed, log, damaged, name)
        if damaged:
            check(hit > 0, "the damage met no block: the test shows nothing")
        return told.format(damaged=hit, blocks=blocks)


def bits_flipped():
    def damage(daemon):
        damaged = set()
        for number, record in enumerate(random.sample(records(daemon), 24)):
            table_end = HEADER_BYTES + record.sections * ENTRY_BYTES
            # Header (its sealed part), section table, sections, first and last bytes of each.
            places = [0, 183, random.randrange(184), HEADER_BYTES, table_end - 9, random.randrange(HEADER_BYTES, table_end - 8),
                      (table_end + 63) // 64 * 64, record.sections_end() - 1, random.randrange((table_end + 63) // 64 * 64, record.sections_end() - 128)]
            place = places[number % len(places)]
            if place >= (table_end + 63) // 64 * 64 and place < record.sections_end():
                # Between sections there is padding when their size is no multiple of 64: it is here.
                pass
            flip(record.path, record.offset + place)
            damaged.add(record.hash)
        return damaged

    return with_damage("flip", damage)


def segment_truncated():
    def damage(daemon):
        found = records(daemon)
        victim = random.choice(found)
        os.truncate(victim.path, victim.offset + victim.bytes // 2)
        return {r.hash for r in found if r.path == victim.path and r.offset >= victim.offset}

    return with_damage("truncate", damage)


def records_swapped():
    def damage(daemon):
        one, other = random.sample([r for r in records(daemon)], 2)
        check(one.bytes == other.bytes, "records of one form have one size")
        images = []
        for record in (one, other):
            with open(record.path, "rb") as file:
                file.seek(record.offset)
                images.append(file.read(record.bytes))
        for record, image in zip((other, one), images):
            with open(record.path, "r+b") as file:
                file.seek(record.offset)
                file.write(image)
        return {one.hash, other.hash}

    return with_damage("swap", damage)


def sections_swapped_between_records():
    def damage(daemon):
        one, other = random.sample(records(daemon), 2)
        start = (HEADER_BYTES + one.sections * ENTRY_BYTES + 63) // 64 * 64
        with open(one.path, "rb") as file:
            file.seek(one.offset + start)
            image = file.read(one.sections_end() - start)
        with open(other.path, "r+b") as file:
            file.seek(other.offset + start)
            file.write(image)
        return {other.hash}

    return with_damage("sections", damage)


def rocksdb_deleted():
    def damage(daemon):
        shutil.rmtree(os.path.join(daemon.data_dir, "index"))
        return set()

    return with_damage("noindex", damage, told="{blocks} blocks, none lost")


def rocksdb_deleted_and_bits_flipped():
    def damage(daemon):
        shutil.rmtree(os.path.join(daemon.data_dir, "index"))
        damaged = set()
        for record in random.sample(records(daemon), 8):
            flip(record.path, record.offset + record.sections_end() - 1 - random.randrange(64))
            damaged.add(record.hash)
        return damaged

    return with_damage("noindexflip", damage)


def older_copy(what, pick, damaged_of):
    """Stores, stops, copies, stores more, stops, puts the copy back."""
    seed = random.randrange(1 << 30)
    with Daemon(what) as daemon:
        daemon.start()
        log_one = fill(daemon, seed)
        daemon.stop()
        copies = pick(daemon)
        for path in copies:
            (shutil.copytree if os.path.isdir(path) else shutil.copy)(path, path + ".copy")
        daemon.start()
        log_two = fill(daemon, seed + 1)
        daemon.stop()
        damaged = damaged_of(daemon, copies)
        for path in copies:
            (shutil.rmtree if os.path.isdir(path) else os.unlink)(path)
            os.rename(path + ".copy", path)
        daemon.start()
        told = judge(daemon, seed, log_one, damaged, what)
        more = judge(daemon, seed + 1, log_two, damaged, what)
        return f"{told[0] + more[0]} blocks, {told[1] + more[1]} of them damaged"


def rocksdb_replaced_by_older_copy():
    return older_copy("oldindex", lambda daemon: [os.path.join(daemon.data_dir, "index")], lambda daemon, copies: set())


def segment_replaced_by_older_copy():
    def damaged_of(daemon, copies):
        now = {(r.path, r.offset): r for r in records(daemon)}
        damaged = set()
        for (path, offset), record in now.items():
            if path in copies:
                with open(path + ".copy", "rb") as old, open(path, "rb") as new:
                    old.seek(offset)
                    new.seek(offset)
                    if old.read(record.bytes) != new.read(record.bytes):
                        damaged.add(record.hash)
        check(damaged, "the copy differs in nothing: the test shows nothing")
        # A block may have been stored again elsewhere.
        return damaged - {r.hash for r in now.values() if r.path not in copies}

    # The segment that is written to next: the last one with records.
    return older_copy("oldsegment", lambda daemon: [records(daemon)[-1].path], damaged_of)


def disk_full():
    """A file system with room for a part: said, nobody disturbed, what was written is there after a restart, what did not fit is a miss."""
    with Daemon("full", **{"disk.capacity": "128MiB"}) as daemon:
        mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m", "none", daemon.data_dir], check=False,
                                                       stderr=subprocess.DEVNULL).returncode == 0
        try:
            if not mounted:
                daemon.options["disk.fault"] = '"write:fail=full"'
            daemon.start()
            log = os.path.join(daemon.folder, "stores")
            figures = loadgen("run", daemon, seed=5, chains=48, blocks=16, requests=48 * 4, block_bytes=1 << 18, log=log)
            check(figures["loaded"] > 0, f"a full disk disturbs what is in memory: {figures}")
            daemon.stop()
            # Segments that can't be made are no error while older ones can be written over: the log says why the tier is smaller than its capacity.
            check("disk is full" in daemon.log(), "the full disk was not noticed")
            daemon.start()
            on_disk = daemon.stats()["disk_blocks"]
            figures = loadgen("check", daemon, seed=5, log=log, blocks=1, list=True, block_bytes=1 << 18)
            verdicts = list(figures["blocks"].values())
            check("failed" not in verdicts, f"a block that lies whole on a full disk can't be loaded: {figures}")
            check(verdicts.count("loaded") == on_disk, f"{on_disk} blocks are on the disk, {verdicts.count('loaded')} were loaded")
            check(on_disk > 0 or not mounted, "nothing was written to a disk with room for a part")
        finally:
            if mounted:
                subprocess.run(["umount", "-l", daemon.data_dir], check=True)
    return f"{'tmpfs of 72 MiB' if mounted else 'by the fault filter'}: {on_disk} of {len(verdicts)} blocks there after a restart"


def folder_turns_read_only():
    """As ext4 does after an error: what is on the disk still hits, at once and after a restart; what cannot be written disturbs nobody."""
    with Daemon("readonly", **{"memory.capacity": "16MiB", "memory.slab": "4MiB", "disk.capacity": "128MiB"}) as daemon:
        image = os.path.join(daemon.folder, "image")
        with open(image, "wb") as file:
            file.truncate(256 << 20)
        commands = (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop,errors=remount-ro", image, daemon.data_dir])
        if os.geteuid() != 0 or any(shutil.which(command[0]) is None or
                                    subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0 for command in commands):
            return "skipped: no file system can be made and mounted here (tests/unit/cache/test_disk.c has the rule)"
        try:
            device = next(line.split()[0] for line in open("/proc/mounts", encoding="ascii") if line.split()[1] == daemon.data_dir)
            trigger = f"/sys/fs/ext4/{os.path.basename(device)}/trigger_fs_error"
            if not os.path.exists(trigger):
                return "skipped: this kernel makes no file system read-only on request"
            daemon.start()
            log = os.path.join(daemon.folder, "stores")
            loadgen("run", daemon, seed=3, chains=24, blocks=16, requests=72, log=log, flush_every=8)
            daemon.ask("flush")
            with open(trigger, "w", encoding="ascii") as file:
                file.write("1")
            loadgen("run", daemon, seed=4, chains=24, blocks=16, requests=72)
            judge(daemon, 3, log, set(), "read-only")
            daemon.stop()
            code, said = start_and_end(daemon)
            check(code == 1 and daemon.data_dir in said and "Read-only" in said, f"started on a read-only folder: {code} {said}")
            subprocess.run(["umount", daemon.data_dir], check=True)
            subprocess.run(["mount", "-o", "loop", image, daemon.data_dir], check=True)
            daemon.start()
            blocks, _ = judge(daemon, 3, log, set(), "writable again")
            daemon.stop()
        finally:
            subprocess.run(["umount", "-l", daemon.data_dir], check=False, stderr=subprocess.DEVNULL)
    return f"{blocks} blocks, all hit on the read-only disk and after a restart"


def start_and_end(daemon):
    """Starts a daemon that is to refuse; its exit code and what it says."""
    done = subprocess.run([harness.program("kvcaskd"), "--config", daemon.config()], capture_output=True, text=True, timeout=30 * SLOW,
                          check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stderr.strip()


def folder_in_use():
    with Daemon("inuse") as daemon:
        daemon.start()
        other = Daemon("inuse2")
        other.data_dir, own = daemon.data_dir, other.data_dir
        code, said = start_and_end(other)
        other.data_dir = own
        other.close()
        check(code == 1, f"exit code {code}: {said}")
        check("in use" in said and daemon.data_dir in said, f"the error names not what is wrong: {said}")
        loadgen("run", daemon, seed=1, chains=1, requests=2)
    return said.splitlines()[-1]


def folder_forbidden():
    if os.geteuid() != 0:
        return "skipped in part: not root"
    # Another user may not reach the build folder (a clone in /root): program, configuration and folder go where all can.
    with Daemon("forbidden") as daemon, tempfile.TemporaryDirectory(prefix="kvc-") as outside:
        os.chmod(outside, 0o755)
        os.chmod(daemon.socket_folder, 0o777)
        own, daemon.data_dir = daemon.data_dir, os.path.join(outside, "data")
        os.mkdir(daemon.data_dir, 0o500)
        program = shutil.copy(harness.program("kvcaskd"), outside)
        config = shutil.copy(daemon.config(), outside)
        os.chmod(config, 0o644)
        probe = subprocess.run(["true"], user=65534, group=65534, extra_groups=[], check=False, cwd="/")
        check(probe.returncode == 0, "cannot become another user")
        done = subprocess.run([program, "--config", config], capture_output=True, text=True, timeout=30 * SLOW, check=False,
                              stdin=subprocess.DEVNULL, user=65534, group=65534, extra_groups=[], cwd="/")
        said = done.stderr.strip()
        check(done.returncode == 1, f"exit code {done.returncode}: {said}")
        check(daemon.data_dir in said, f"the error names not the folder: {said}")
        daemon.data_dir = own
    return said.splitlines()[-1]


def slow_and_hung_disk():
    """Reads of 2 s, reads that never return, writes of 2 s: first request at most its deadline later, then as without."""
    with Daemon("slow", **{"disk.read_deadline": "500ms", "memory.capacity": "16MiB", "memory.slab": "4MiB"}) as daemon:
        daemon.start()
        log = fill(daemon, 9, chains=32)
        for fault in ("read:delay=2s", "read:hang", "write:delay=2s"):
            daemon.ask("fault", {"set": fault})
            began = time.monotonic()
            loadgen("run", daemon, seed=9, chains=32, blocks=16, requests=1, timeout_ms=1000)
            first = time.monotonic() - began
            began = time.monotonic()
            loadgen("run", daemon, seed=9, chains=32, blocks=16, requests=64, timeout_ms=1000)
            rest = time.monotonic() - began
            daemon.ask("fault", {"set": ""})
            check(first < 5 * SLOW and rest < 20 * SLOW, f"{fault}: the first request took {first:.1f} s, 64 more {rest:.1f} s")
            time.sleep(2.5)
        del log
    return "no request waited for the disk beyond its deadline"


CASES = {
    "bits_flipped": bits_flipped,
    "segment_truncated": segment_truncated,
    "records_swapped": records_swapped,
    "sections_swapped_between_records": sections_swapped_between_records,
    "rocksdb_deleted": rocksdb_deleted,
    "rocksdb_deleted_and_bits_flipped": rocksdb_deleted_and_bits_flipped,
    "rocksdb_replaced_by_older_copy": rocksdb_replaced_by_older_copy,
    "segment_replaced_by_older_copy": segment_replaced_by_older_copy,
    "disk_full": disk_full,
    "folder_turns_read_only": folder_turns_read_only,
    "folder_in_use": folder_in_use,
    "folder_forbidden": folder_forbidden,
    "slow_and_hung_disk": slow_and_hung_disk,
}

if __name__ == "__main__":
    harness.main(CASES)
