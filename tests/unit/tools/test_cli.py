#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvcask, the tool, against a real kvcaskd. KVC_BUILD: the build folder."""
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

# The environment is over what the tests tell a daemon.
for name in [name for name in os.environ if name.startswith("KVCASK_")]:
    del os.environ[name]
BUILD = Path(os.environ.get("KVC_BUILD", Path(__file__).resolve().parents[3] / "build"))
COMMANDS = "stat spaces ls show clients match drop flush verify bench config profile fault loadgen".split()
# A small world: 6 requests of 300 tokens, 4 blocks of 64 each, the first 2 shared by every other request.
SMALL = ["--requests", "6", "--tokens", "300", "--shared", "128", "--prefill", "0"]
BLOCKS, PROMPT_BLOCKS = 2 * 2 + 6 * 2, 6 * 4


def run(*arguments, socket=None, code=0, stdin=None, env=None):
    environment = {k: v for k, v in os.environ.items() if k not in ("KVCASK_SOCKET", "XDG_RUNTIME_DIR")}
    environment.update(env or {})
    if socket is not None:
        environment["KVCASK_SOCKET"] = str(socket)
    done = subprocess.run([BUILD / "bin" / "kvcask", *map(str, arguments)], input=stdin, stdin=None if stdin else subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == code, f"kvcask {arguments}: {done.returncode}, not {code}\n{done.stdout}\n{done.stderr}"
    return done


class Daemon:
    def __init__(self, **options):
        self.folder = Path(tempfile.mkdtemp(prefix="kvcask-cli-", dir=BUILD))
        self.socket = self.folder / "s"
        if len(str(self.socket)) > 100:
            self.socket = Path(tempfile.mkdtemp(prefix="kvcask-cli-")) / "s"
        self.data = self.folder / "data"
        self.data.mkdir()
        options = {"socket": self.socket, "data_dir": self.data, "memory.capacity": "256MiB", "disk.capacity": "512MiB", **options}
        self.arguments = [f"--set={key}={value}" for key, value in options.items()]
        self.process = None
        try:
            self.start()
        except BaseException:
            self.end()
            raise

    def start(self):
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen([BUILD / "bin" / "kvcaskd", *self.arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        until = time.monotonic() + 60
        while True:
            done = subprocess.run([BUILD / "bin" / "kvcask", "stat", "--json", "--socket", self.socket], capture_output=True, text=True)
            if done.returncode == 0 and json.loads(done.stdout)["ready"]:
                return
            assert self.process.poll() is None and time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(60)
            self.process = None
            assert code == 0, (self.folder / "log").read_text()

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.socket.parent != self.folder:
            shutil.rmtree(self.socket.parent, ignore_errors=True)

    def __call__(self, *arguments, code=0, stdin=None):
        return run(*arguments, socket=self.socket, code=code, stdin=stdin)

    def json(self, *arguments, code=0, stdin=None):
        return json.loads(self(*arguments, "--json", code=code, stdin=stdin).stdout)

    def stats(self):
        return self.json("stat")["stats"]


class Usage(unittest.TestCase):
    """Without a daemon."""

    def test_help__every_command__says_what_it_does(self):
        listed = run("--help").stdout
        for command in COMMANDS:
            self.assertIn(f"\n  {command} ", listed)
            for way in ([command, "--help"], ["help", command]):
                out = run(*way).stdout
                self.assertIn(f"kvcask {command}", out)
        self.assertNotIn("kvcask ", run("--help").stderr)

    def test_command__a_typo__names_the_nearest(self):
        for given, meant in (("stta", "stat"), ("space", "spaces"), ("verfy", "verify"), ("client", "clients")):
            self.assertIn(f"did you mean kvcask {meant}?", run(given, code=2).stderr)
        self.assertIn("see kvcask --help", run("something-else", code=2).stderr)
        run(code=2)

    def test_option__a_typo__names_the_nearest(self):
        for command, given, meant in (("stat", "--wathc", "--watch"), ("ls", "--limt=5", "--limit"), ("clients", "--jsno", "--json")):
            self.assertIn(f"did you mean {meant}?", run(command, given, code=2).stderr)

    def test_arguments__wrong__usage_in_one_line(self):
        for arguments in (
            ["show"], ["show", "zz"], ["show", "a" * 65], ["drop"], ["drop", "x"], ["ls", "--where", "nowhere"], ["ls", "--limit", "-1"],
            ["ls", "--sort", "name"], ["ls", "--prefix", "xyz"], ["match"], ["match", "--tokens", "1", "--tokens-file", "x"],
            ["stat", "extra"], ["stat", "--every", "soon"], ["stat", "-w", "--every", "1ns"], ["stat", "--timeout", "x"], ["stat", "--socket", ""],
            ["verify", "--rate", "fast"], ["recode", "--all"], ["recode", "--codec", "split"], ["recode", "--codec", "raw", "--all", "--key", "00"], ["verify", "--dir", "x", "--stop"], ["fault", "--clear", "x"], ["config", "no.such"],
            ["loadgen", "--tokens", "1"], ["loadgen", "--form", "huge"], ["match", "--tokens", "1,x"],
        ):
            done = run(*arguments, code=2)
            self.assertEqual(done.stdout, "", arguments)
            self.assertRegex(done.stderr, r"^kvcask [a-z]+: [^\n]+\n$")

    def test_daemon__nobody_there__one_line_and_exit_code_1(self):
        with tempfile.TemporaryDirectory() as empty:
            for arguments in (["stat"], ["spaces"], ["ls"], ["show", "ab"], ["clients"], ["match", "ab" * 32], ["drop", "ab"], ["flush"],
                              ["verify"], ["config"], ["fault"], ["loadgen"], ["stat", "-w"], ["stat", "--json"]):
                done = run(*arguments, socket=f"{empty}/none", code=1)
                self.assertEqual(done.stdout, "")
                self.assertRegex(done.stderr, r"^kvcask [a-z]+: no daemon answers: [^\n]+\n$")
            done = run("stat", code=1, env={"XDG_RUNTIME_DIR": empty})
            self.assertIn(f"looked for {empty}/kvcask/kvcask.sock", done.stderr)
            done = run("stat", "--socket", "x" * 300, code=1)
            self.assertRegex(done.stderr, r"300 bytes.*107")

    def test_options_of_all_commands__before_the_command__count_as_behind_it(self):
        with tempfile.TemporaryDirectory() as empty:
            none = f"{empty}/none"
            behind = run("stat", "--socket", none, "--json", code=1).stderr
            for before in (["--socket", none, "--json", "stat"], [f"--socket={none}", "stat", "--json"], ["-s", none, "stat"], [f"-s{none}", "stat"],
                           ["--json", "--timeout", "2s", "stat", "-s", none], ["-s", "/elsewhere", "stat", "-s", none]):
                self.assertEqual(run(*before, code=1).stderr, behind, before)
        self.assertIn("options", json.loads(run("--json", "config", "--default").stdout))
        self.assertEqual(run("--json", "stat", "--help").stdout, run("stat", "--help").stdout)
        self.assertEqual(run("--json", "--help").stdout, run("--help").stdout)
        # Those of one command go behind it.
        self.assertRegex(run("--limit", "5", "ls", code=2).stderr, r"^kvcask: no option of all commands is called --limit[^\n]*see kvcask --help\n$")
        self.assertIn("did you mean --json?", run("--jsno", "stat", code=2).stderr)
        self.assertRegex(run("-w", "stat", code=2).stderr, r"^kvcask: [^\n]*-w[^\n]*\n$")
        self.assertRegex(run("--socket", code=2).stderr, r"^kvcask: --socket wants a value[^\n]*\n$")
        self.assertRegex(run("--json", code=2).stderr, r"^kvcask: no command[^\n]*see kvcask --help\n$")
        self.assertIn("did you mean kvcask stat?", run("--json", "stta", code=2).stderr)
        self.assertIn("usage: kvcask bench", run("--help", "bench").stdout)

    def test_config__default__is_a_file_that_kvcaskd_takes(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kvcaskd.yaml"
            path.write_text(run("config", "--default").stdout)
            done = subprocess.run([BUILD / "bin" / "kvcaskd", "--config", path, "--check-config"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
        table = json.loads(run("config", "--default", "--json").stdout)["options"]
        self.assertIn("memory.capacity", [option["key"] for option in table])
        self.assertTrue(all(option["text"] for option in table))

    def test_stdout__cannot_be_written__exit_code_1(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([BUILD / "bin" / "kvcask", "config", "--default"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left", done.stderr)

    def test_verify__a_folder_that_is_none__exit_code_1(self):
        done = run("verify", "--dir", "/nonexistent-folder", code=1)
        self.assertRegex(done.stderr, r"^kvcask verify: .*nonexistent-folder")
        with tempfile.TemporaryDirectory() as empty:
            self.assertRegex(run("verify", "--dir", empty, code=1).stderr, "holds no store")

    def test_loadgen__without_kvcask__needs_no_daemon(self):
        one = json.loads(run("loadgen", "--without", "--json", *SMALL, socket="/nonexistent").stdout)
        self.assertEqual((one["loaded_tokens"], one["prompt_tokens"], one["wrong_bytes"]), (0, 1800, 0))


class Answers(unittest.TestCase):
    """One daemon for all: what is stored comes from loadgen."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.first = json.loads(cls.daemon("loadgen", "--json", *SMALL, "--flush").stdout)
        cls.blocks = cls.daemon.json("ls", "--limit", "0")["blocks"]

    @classmethod
    def tearDownClass(cls):
        cls.daemon.end()

    def key(self, position=0, index=0):
        return sorted(b["key"] for b in self.blocks if b["position_tokens"] == position)[index]

    def test_loadgen__first_and_second_process__shared_then_all_is_loaded(self):
        self.assertEqual(self.first["stored_blocks"], BLOCKS)
        self.assertEqual(self.first["loaded_tokens"], (PROMPT_BLOCKS - BLOCKS) * 64)
        again = json.loads(self.daemon("loadgen", "--json", *SMALL).stdout)
        self.assertEqual(again["loaded_tokens"], PROMPT_BLOCKS * 64)
        self.assertEqual((again["wrong_bytes"], again["stored_blocks"], again["failed_blocks"]), (0, 0, 0))
        self.assertIn("1,536", self.daemon("loadgen", *SMALL).stdout)

    def test_loadgen__more_wanted_than_there_is__exit_code_1(self):
        done = self.daemon("loadgen", *SMALL, "--need-loaded", PROMPT_BLOCKS * 64 + 1, code=1)
        self.assertIn("1,536", done.stderr)

    def test_loadgen__another_seed__shares_nothing(self):
        daemon = self.daemon
        other = json.loads(daemon("loadgen", "--json", "--seed", "7", "--requests", "1", "--tokens", "64", "--prefill", "0").stdout)
        self.assertEqual((other["loaded_tokens"], other["stored_blocks"]), (0, 1))
        self.assertEqual(len(daemon.json("spaces")["spaces"]), 2)
        self.assertIn("name one by --space", daemon("match", "ab" * 32, code=2).stderr)
        key = daemon.json("ls", "--space", "1")["blocks"][0]["key"]
        daemon("drop", key)

    def test_stat__keys_hits_and_misses__add_up(self):
        before = self.daemon.stats()
        self.daemon("loadgen", *SMALL)
        after = self.daemon.stats()
        self.assertEqual(after["match_keys"] - before["match_keys"], PROMPT_BLOCKS)
        self.assertEqual(after["match_hit_keys"] - before["match_hit_keys"], PROMPT_BLOCKS)
        misses = sum(value for name, value in after.items() if name.startswith("miss_"))
        self.assertEqual(after["match_keys"], after["match_hit_keys"] + misses)
        self.assertGreaterEqual(after["commit_blocks"], BLOCKS)

    def test_stat__for_people__shows_what_json_says(self):
        out = self.daemon("stat").stdout
        for words in ("memory", "disk", "matches", "hit", "never stored", "stored", "disk write"):
            self.assertIn(words, out)
        self.assertIn("match_hit_keys", self.daemon("stat", "--all").stdout)

    def test_stat__watch__a_line_each_time(self):
        out = self.daemon("stat", "-w", "-n", "50ms", "-c", "3").stdout.splitlines()
        self.assertEqual(len(out), 4)  # a head
        self.assertIn("matches/s", out[0])
        lines = self.daemon("stat", "-w", "--every=20ms", "--count=2", "--json").stdout.splitlines()
        self.assertEqual([json.loads(line)["ready"] for line in lines], [True, True])

    def test_socket__option__wins_over_environment(self):
        run("stat", "--socket", self.daemon.socket, socket="/nonexistent")
        run("stat", "-s", f"unix:{self.daemon.socket}")

    def test_spaces__long_and_short__name_the_model_and_form(self):
        space = self.daemon.json("spaces")["spaces"][0]
        self.assertEqual((space["blocks"], space["memory_blocks"], space["disk_blocks"]), (BLOCKS, BLOCKS, BLOCKS))
        self.assertIn("kvcask loadgen", self.daemon("spaces").stdout)
        out = self.daemon("spaces", "--long").stdout
        for words in (space["fingerprint"], "sha256_cbor", space["forms"][0]["form"], "64 tokens a block"):
            self.assertIn(words, out)

    def test_ls__filters_limit_and_order(self):
        self.assertEqual(len(self.blocks), BLOCKS)
        out = self.daemon("ls").stdout.splitlines()
        self.assertEqual(len(out), BLOCKS + 1)
        limited = self.daemon("ls", "-L", "3").stdout
        self.assertEqual(len(limited.splitlines()), 5)
        self.assertIn("more", limited.splitlines()[-1])
        ordered = self.daemon.json("ls", "--sort", "position", "--limit", "4")
        self.assertEqual([b["position_tokens"] for b in ordered["blocks"]], [0, 0, 64, 64])
        self.assertTrue(ordered["more"])
        hits = [b["hits"] for b in self.daemon.json("ls", "--sort", "hits")["blocks"]]
        self.assertEqual(hits, sorted(hits, reverse=True))
        self.assertEqual(len(self.daemon.json("ls", "--where", "disk")["blocks"]), BLOCKS)
        self.assertEqual(self.daemon.json("ls", "--where", "disk_only")["blocks"], [])
        self.assertIn("no such blocks", self.daemon("ls", "--min-hits", "1000000").stdout)
        key = self.key()
        self.assertEqual([b["key"] for b in self.daemon.json("ls", "--prefix", key[:10])["blocks"]], [key])
        self.assertIn(key, self.daemon("ls", "--prefix", key[:10].upper(), "--full").stdout)

    def test_clients__the_asker__is_listed(self):
        clients = self.daemon.json("clients")["clients"]
        self.assertIn("kvcask", [client["name"] for client in clients])
        self.assertIn("kvcask", self.daemon("clients").stdout)

    def test_show__a_key__header_sections_and_contents(self):
        key = self.key(64)
        out = self.daemon("show", key[:12], "--content", "--sections").stdout
        for words in (key, "parent", "64 to 128", "in memory", "on disk", "bfloat16", "checked", "ok", "\nK: ", "\nV: ", "2^-3"):
            self.assertIn(words, out)
        answer = self.daemon.json("show", key, "--content")
        self.assertEqual(len(answer["sections"]), 30)
        self.assertEqual(answer["checked"], "ok")
        k = answer["content"]["k"]
        # Exponents 120 to 128 with their stored bias of 127, by a fair coin eight times.
        self.assertEqual({bin["exponent"] for bin in k["exponents"]}, set(range(-7, 2)))
        self.assertEqual(sum(bin["count"] for bin in k["exponents"]), k["elements"])
        self.assertEqual((k["nans"], k["zeros"]), (0, 0))
        self.assertIn(answer["header"]["parent_hash"], [b["key"] for b in self.blocks])

    def test_show__nothing_or_several__says_so(self):
        self.assertIn("no block", self.daemon("show", "0" * 64, code=1).stderr)
        digits = {key["key"][0] for key in self.blocks}
        several = next(d for d in digits if sum(b["key"][0] == d for b in self.blocks) > 1)
        self.assertRegex(self.daemon("show", several).stdout, rf"^\d+ blocks begin with {several}:\n")

    def test_match__hashes_by_argument_file_and_stdin__tell_hits_and_causes(self):
        hashes = [self.key(0), "ab" * 32, self.key(64)]
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(hashes))
            file.flush()
            ways = [self.daemon.json("match", "-S", 0, *hashes), self.daemon.json("match", "-S", 0, file.name),
                    self.daemon.json("match", "-S", 0, "-", stdin=",".join(hashes))]
        for answer in ways:
            self.assertEqual([key["hit"] for key in answer["keys"]], [True, False, True])
            self.assertEqual(answer["matched"], 1)
            self.assertEqual(answer["keys"][1]["miss"], "never_stored")
        out = self.daemon("match", "-S", 0, *hashes).stdout
        self.assertIn("1 of 3 blocks match (64 of 192 tokens)", out)
        self.assertIn("never stored", out)
        self.assertNotIn(hashes[0][:16], out)
        self.assertIn(hashes[0][:16], self.daemon("match", "-S", 0, "--all", *hashes).stdout)
        self.daemon("match", "-S", 0, "/nonexistent", code=1)
        self.daemon("match", "-S", 99, hashes[0], code=1)

    def test_match__tokens__are_hashed_as_vllm_does(self):
        def head(major, number):
            if number < 24:
                return bytes([major << 5 | number])
            for code, form, limit in ((24, ">B", 1 << 8), (25, ">H", 1 << 16), (26, ">I", 1 << 32)):
                if number < limit:
                    return bytes([major << 5 | code]) + struct.pack(form, number)
            raise AssertionError

        text = b"vllm-none-hash"
        parent = hashlib.sha256(head(3, len(text)) + text).digest()
        tokens = list(range(40000, 40000 + 200))
        expected = []
        for i in range(0, 192, 32):
            block = tokens[i : i + 32]
            encoded = head(4, 3) + head(2, 32) + parent + head(4, 32) + b"".join(head(0, t) for t in block) + b"\xf6"
            parent = hashlib.sha256(encoded).digest()
            expected.append(parent.hex())
        answer = self.daemon.json("match", "-S", 0, "--tokens", ",".join(map(str, tokens)))
        self.assertEqual(answer["hashes"], expected[1::2])  # blocks of 64 tokens: each second engine block's
        answer = self.daemon.json("match", "-S", 0, "--tokens-file", "-", stdin=json.dumps(tokens))
        self.assertEqual(answer["hashes"], expected[1::2])
        self.daemon("match", "-S", 0, "--tokens", "1", "--engine-block-tokens", "48", code=2)
        self.assertIn("fill no block: one has 64", self.daemon("match", "-S", 0, "--tokens", "1,2,3", code=1).stderr)

    def test_fault__set_shown_and_cleared(self):
        self.assertIn("no faults", self.daemon("fault").stdout)
        self.assertIn("nonsense", self.daemon("fault", "nonsense", code=1).stderr)
        self.daemon("fault", "read:delay=1ms")
        self.assertIn("read", self.daemon("fault").stdout)
        self.assertIn("no faults", self.daemon("fault", "--clear").stdout)

    def test_config__in_effect__shows_what_was_set(self):
        options = self.daemon.json("config")["options"]
        self.assertEqual(options["memory.capacity"]["value"], "256MiB")
        self.assertRegex(self.daemon("config").stdout, r"memory.capacity +256MiB +auto")
        self.assertEqual(list(self.daemon.json("config", "memory.capacity")["options"]), ["memory.capacity"])
        self.assertNotIn("socket", self.daemon("config", "memory.capacity").stdout)
        self.assertEqual(self.daemon("config", "socket").stdout.count("\n"), 2)
        self.assertIn("did you mean memory.capacity?", self.daemon("config", "memory.capacty", code=2).stderr)

    def test_bench__help__is_its_own(self):
        self.assertIn("usage: kvcask bench", run("bench", "--help").stdout)

    def test_bench__environment_of_the_users_daemon__is_not_that_of_the_measured(self):
        environment = {"KVCASK_SOCKET": str(self.daemon.socket), "KVCASK_DATA_DIR": "/nonexistent/folder", "KVCASK_MEMORY_CAPACITY": "none"}
        done = subprocess.run([BUILD / "bin" / "kvcask", "bench", "idle", "--quick", "--json", "--only", "private", "--folder", self.daemon.folder],
                              env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
        self.assertIn(done.returncode, (0, 1), done.stderr)  # 1: a bar is missed, as by a sanitizer
        self.assertEqual(json.loads(done.stdout.splitlines()[0])["case"], "private_memory")

    def test_bench__wrong_arguments__said(self):
        for arguments in (["idel"], ["idle", "--pairs", "many"], ["idle", "--pairs", "0"], ["copy", "--dtype", "f8"]):
            self.assertRegex(run("bench", *arguments, code=2).stderr, r"^kvcask bench: ")


class Changes(unittest.TestCase):
    """A daemon each."""

    def setUp(self):
        self.daemon = Daemon()
        self.daemon("loadgen", *SMALL, "--flush")

    def tearDown(self):
        self.daemon.end()

    def test_drop__one_block__is_a_miss_with_that_cause(self):
        key = self.daemon.json("ls", "--sort", "position")["blocks"][0]["key"]
        self.assertIn(key, self.daemon("drop", key[:16]).stdout)
        answer = self.daemon.json("match", key)
        self.assertEqual((answer["keys"][0]["hit"], answer["keys"][0]["miss"]), (False, "dropped"))
        self.assertEqual(len(self.daemon.json("ls")["blocks"]), BLOCKS - 1)
        self.assertEqual(self.daemon("drop", key, code=1).stderr, f"kvcask drop: no block's key begins with {key}\n")

    def test_drop__several_begin_so__drops_none_and_lists_them(self):
        keys = [b["key"] for b in self.daemon.json("ls")["blocks"]]
        digit = next(d for d in "0123456789abcdef" if sum(k[0] == d for k in keys) > 1)
        done = self.daemon("drop", digit, code=2)
        for key in keys:
            self.assertEqual(key in done.stderr, key[0] == digit)
        self.assertEqual(len(self.daemon.json("ls")["blocks"]), BLOCKS)

    def test_restart__all_is_loaded_from_the_disk(self):
        self.assertTrue(self.daemon.json("flush")["flushed"])
        self.daemon.stop()
        self.daemon.start()
        one = json.loads(self.daemon("loadgen", "--json", *SMALL).stdout)
        self.assertEqual((one["loaded_tokens"], one["wrong_bytes"]), (PROMPT_BLOCKS * 64, 0))
        self.assertGreater(one["disk_tokens"], 0)

    def test_stat__watch_over_a_restart__goes_on(self):
        environment = dict(os.environ, KVCASK_SOCKET=str(self.daemon.socket))
        watch = subprocess.Popen([BUILD / "bin" / "kvcask", "stat", "-w", "-n", "100ms", "-c", "40", "--timeout", "200ms", "--json"],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        watch.stdout.readline()
        first = self.daemon.process.pid
        self.daemon.stop()
        self.daemon.start()
        out, said = watch.communicate(timeout=60)
        pids = [json.loads(line)["pid"] for line in out.splitlines()]
        self.assertEqual(watch.returncode, 0, said)
        self.assertIn("no answer", said)
        self.assertIn(self.daemon.process.pid, pids)
        self.assertNotIn(first, pids[-1:])

    def damage(self):
        """Flips a bit in the middle of one record of the store; returns its key."""
        block = self.daemon.json("ls", "--sort", "position")["blocks"][-1]
        place = self.daemon.json("show", block["key"])["blocks"][0]
        segments = sorted(p for p in self.daemon.data.rglob("*") if p.is_file() and p.name.startswith("seg-"))
        segment = next(p for p in segments if int(p.name.removeprefix("seg-").split(".")[0], 16) == place["segment"])
        at = place["segment_offset_bytes"] + place["disk_bytes"] // 2
        with open(segment, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))
        return block["key"]

    def test_recode__there_and_back__saves_bytes_and_ends(self):
        """A second run finds nothing to do; loss needs a space that asks for it."""
        self.assertRegex(self.daemon("recode", "--all", "--codec", "raw").stdout, "^complete")
        before = self.daemon.json("stat")["coding"]
        self.assertEqual(before["saved_bytes"], 0)
        self.assertIn("nothing to do", self.daemon("recode", "--all", "--codec", "raw").stdout)
        self.assertRegex(self.daemon("recode", "--all", "--codec", "split").stdout, r"[1-9][0-9,]* blocks recoded")
        after = self.daemon.json("stat")["coding"]
        self.assertGreater(after["saved_bytes"], 0)
        self.assertGreater(after["ratio"], 1.2)
        self.assertIn("nothing to do", self.daemon("recode", "--all", "--codec", "split").stdout)
        self.assertIn("left as they are", self.daemon("recode", "--all", "--codec", "int8").stdout)

    def test_verify__through_the_daemon__finds_the_damaged_block_and_no_other(self):
        out = self.daemon("verify").stdout
        self.assertRegex(out, rf"^complete: {BLOCKS} blocks, .*; 0 damaged")
        key = self.damage()
        done = self.daemon("verify", "--rate", "10GiB", code=1)
        self.assertIn(f"damaged: {key}", done.stdout)
        self.assertIn("1 blocks were damaged", done.stderr)
        answer = self.daemon.json("verify", "--status", code=1)
        self.assertEqual((answer["damaged"], [b["key"] for b in answer["damaged_blocks"]]), (1, [key]))

    def test_verify__stopped_by_another__is_not_a_clean_end(self):
        environment = dict(os.environ, KVCASK_SOCKET=str(self.daemon.socket))
        slow = subprocess.Popen([BUILD / "bin" / "kvcask", "verify", "--rate", "1MiB"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, env=environment)
        until = time.monotonic() + 20
        while not self.daemon.json("verify", "--status")["running"]:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)
        self.assertIn("runs already", self.daemon("verify", code=1).stderr)
        self.daemon("verify", "--stop")
        out, said = slow.communicate(timeout=60)
        self.assertEqual(slow.returncode, 1)
        self.assertRegex(out, "^stopped: ")
        self.assertIn("stopped before the end", said)

    def test_verify__a_folder__finds_the_damaged_record_and_changes_nothing(self):
        self.assertIn("in use", self.daemon("verify", "--dir", self.daemon.data, code=1).stderr)
        key = self.damage()
        self.daemon.stop()
        done = run("verify", "--dir", self.daemon.data, code=1)
        self.assertIn(key, done.stdout)
        answer = json.loads(run("verify", "-d", self.daemon.data, "--json", code=1).stdout)
        self.assertEqual((answer["damaged"], answer["records"]), (1, BLOCKS - 1))
        self.assertEqual(answer["damage"][0]["key"], key)
        self.daemon.start()
        one = json.loads(self.daemon("loadgen", "--json", *SMALL).stdout)
        self.assertEqual(one["wrong_bytes"], 0)
        self.assertEqual(one["loaded_tokens"], (PROMPT_BLOCKS - 1) * 64)


if __name__ == "__main__":
    unittest.main(verbosity=2)
