#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`autostart: true`: a daemon for the user who has none, by the real kvcaskd. KVC_BUILD: the build folder."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("KVC_BUILD", TOP / "build"))
SLOW = float(os.environ.get("KVC_SLOW", "1"))
sys.path.insert(0, str(TOP / "connector" / "python"))
from kvcask import autostart  # noqa: E402

# Small, so that it starts at once.
OPTIONS = {"memory.capacity": "64MiB", "disk.capacity": "256MiB"}
STARTER = f"""
import json, sys
sys.path.insert(0, {str(TOP / "connector" / "python")!r})
from kvcask import autostart
print(autostart.ensure(**json.loads(sys.argv[1])))
"""


class Autostart(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="kvc-"))
        self.kept = dict(os.environ)
        for name in [name for name in os.environ if name.startswith("KVCASK_")]:
            del os.environ[name]
        os.environ.update(KVCASK_DAEMON=str(BUILD / "bin" / "kvcaskd"), XDG_RUNTIME_DIR=str(self.folder / "run"),
                          XDG_DATA_HOME=str(self.folder / "home"))

    def tearDown(self):
        os.environ.clear()
        os.environ.update(self.kept)
        for pid in self.daemons():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def daemons(self):
        """Processes of kvcaskd that were started in this test's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if words and words[0].endswith(b"kvcaskd") and any(word.startswith(os.fsencode(self.folder)) for word in words):
                found.append(int(entry.name))
        return found

    def ask(self, socket):
        done = subprocess.run([BUILD / "bin" / "kvcask", "stat", "--json", "--socket", socket], capture_output=True, text=True, check=True,
                              timeout=60 * SLOW)
        return json.loads(done.stdout)

    def starter(self, **arguments):
        arguments = {"options": OPTIONS, **arguments}
        return subprocess.Popen([sys.executable, "-c", STARTER, json.dumps(arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(self, pid):
        """Its parent is gone: nobody of ours can wait for it."""
        until = time.monotonic() + 60 * SLOW
        while time.monotonic() < until:
            if pid not in self.daemons():
                return True
            time.sleep(0.02)
        return False

    def test_ensure__nobody_there__starts_one_where_users_have_theirs(self):
        process = self.starter()
        out, said = process.communicate(timeout=60 * SLOW)
        self.assertEqual(process.returncode, 0, said)
        path = out.strip()
        self.assertEqual(path, str(self.folder / "run" / "kvcask" / "kvcask.sock"))
        self.assertEqual(os.stat(os.path.dirname(path)).st_mode & 0o777, 0o700)
        # It outlives who started it, and keeps blocks on the disk.
        stat = self.ask(path)
        self.assertEqual(stat["data_dir"], str(self.folder / "home" / "kvcask"))
        self.assertEqual(stat["sizes"]["memory_bytes"], 64 << 20)
        os.kill(stat["pid"], signal.SIGTERM)
        self.assertTrue(self.ended(stat["pid"]))
        self.assertIn("flushed", Path(path + ".log").read_text())

    def test_ensure__one_answers__is_taken(self):
        first = autostart.ensure(options=OPTIONS)
        pid = self.ask(first)["pid"]
        self.assertEqual(autostart.ensure(options={"no.such": 1}), first)
        self.assertEqual((self.ask(first)["pid"], self.daemons()), (pid, [pid]))

    def test_ensure__four_at_once__start_one(self):
        starters = [self.starter() for _ in range(4)]
        said = [starter.communicate(timeout=60 * SLOW) for starter in starters]
        self.assertEqual([starter.returncode for starter in starters], [0] * 4, said)
        self.assertEqual(len({out for out, _ in said}), 1)
        self.assertEqual(len(self.daemons()), 1)

    def test_ensure__killed__starts_the_next(self):
        path = autostart.ensure(options=OPTIONS)
        pid = self.ask(path)["pid"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.assertEqual(autostart.ensure(options=OPTIONS), path)
        self.assertNotEqual(self.ask(path)["pid"], pid)

    def test_ensure__environment_of_the_users_tools__changes_nothing_that_was_said(self):
        os.environ.update(KVCASK_SOCKET=str(self.folder / "elsewhere"), KVCASK_DATA_DIR="/nonexistent/folder", KVCASK_MEMORY_CAPACITY="32MiB",
                          KVCASK_DISK_CAPACITY="384MiB")
        path = autostart.ensure(socket=str(self.folder / "mine" / "s"), data_dir=str(self.folder / "data"), options={"memory.capacity": "64MiB"})
        stat = self.ask(path)
        self.assertEqual((path, stat["data_dir"]), (str(self.folder / "mine" / "s"), str(self.folder / "data")))
        # What was not said may be told by the environment.
        self.assertEqual((stat["sizes"]["memory_bytes"], stat["sizes"]["disk_bytes"]), (64 << 20, 384 << 20))

    def test_ensure__data_dir_empty__memory_only(self):
        os.environ["KVCASK_DATA_DIR"] = str(self.folder)
        stat = self.ask(autostart.ensure(data_dir="", options={"memory.capacity": "64MiB", "memory.prefault": False}))
        self.assertEqual((stat["data_dir"], stat["disk"]), ("", "none"))

    def test_ensure__option_wrong__error_says_what_the_daemon_says(self):
        with self.assertRaisesRegex(autostart.AutostartError, 'memory.capacty.*the nearest key is "memory.capacity"'):
            autostart.ensure(options={"memory.capacty": "64MiB"})
        self.assertEqual(self.daemons(), [])

    def test_ensure__no_program__says_where_it_looked(self):
        os.environ.update(KVCASK_DAEMON="/nonexistent/kvcaskd", PATH="/nonexistent")
        with self.assertRaisesRegex(autostart.AutostartError, "KVCASK_DAEMON"):
            autostart.ensure(options=OPTIONS)

    def test_ensure__folder_open_to_all__refused(self):
        folder = self.folder / "open"
        folder.mkdir()
        folder.chmod(0o777)
        with self.assertRaisesRegex(autostart.AutostartError, "open to all"):
            autostart.ensure(socket=str(folder / "s"), options=OPTIONS)
        self.assertEqual(self.daemons(), [])


if __name__ == "__main__":
    # A daemon that outlives its starter is what Python warns of.
    unittest.main(verbosity=2, warnings="ignore")
