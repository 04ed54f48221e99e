#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kvcask calibrate, from files and from a running kvcaskd: the same KV gives the same profile. KVC_BUILD: the build folder."""
import ast
import json
import subprocess
import tempfile
import unittest
from pathlib import Path

from test_cli import BUILD, Daemon, run

ROPE = '{"rope_parameters":{"rope_theta":500.0,"rope_type":"default"},"max_position_embeddings":4096}'
FORMS = ("split-nh", "split-hn", "fused-hn", "fused-nh")


class World(unittest.TestCase):
    """One daemon; each case has a space of its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvcask-calibrate-", dir=BUILD)
        cls.daemon = Daemon(**{"disk.codec": "split"})  # auto might find the machine too slow for it
        cls.count = 0

    @classmethod
    def tearDownClass(cls):
        cls.daemon.end()
        cls.folder.cleanup()

    def path(self, name):
        return Path(self.folder.name) / name

    def store(self, **options):
        """Stores made KV; returns its files and the number of its space."""
        files = [self.path(f"k{self.count}.npy"), self.path(f"v{self.count}.npy")]
        type(self).count += 1
        options = {"model": f"made-{self.count}", **options}
        words = [f"{name}={value}" for name, value in options.items()]
        subprocess.run([BUILD / "tests" / "store_kv", self.daemon.socket, *files, *words], check=True, timeout=60)
        for space in self.daemon.json("spaces")["spaces"]:
            if space["model"] == options["model"] and space["codec"] == options.get("codec", ""):
                return files, space["space"]
        self.fail("the space is not there")

    def profile(self, *arguments, name="p.kvp"):
        out = self.path(name)
        done = self.daemon("calibrate", "-o", out, "--name", "x", "--sinks", "4", *arguments)
        return out.read_bytes(), done

    def weights(self, name, shape, values):
        """A file as numpy writes it, of bf16 that are powers of four."""
        head = repr({"descr": "<u2", "fortran_order": False, "shape": tuple(shape)}).encode()
        head += b" " * (-(len(head) + 11) % 64) + b"\n"
        path = self.path(name)
        path.write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head +
                         b"".join((0x3f80 + 0x100 * value).to_bytes(2, "little") for value in values))
        return path


class Store(World):
    def test_space__the_same_kv__the_same_profile_as_of_files(self):
        for form in FORMS:
            files, space = self.store(form=form, rope=ROPE)
            of_files, _ = self.profile(*files, "--rope-theta", "500", "--pca", "2", "--model-id", f"made-{self.count}")
            of_space, done = self.profile("--space", space, "--pca", "2")
            self.assertEqual(of_files, of_space, form)
            self.assertIn("192 tokens", done.stdout)
            for change in (["--rope-theta", "501"], ["--model-id", "another"]):
                words = {"--rope-theta": "500", "--pca": "2", "--model-id": f"made-{self.count}", change[0]: change[1]}
                other, _ = self.profile(*files, *[word for pair in words.items() for word in pair])
                self.assertNotEqual(of_files, other)

    def test_space__float32_and_other_rotations__the_same_profile_as_of_files(self):
        """A table of frequencies made here must be what the tool makes of the engine's words."""
        theta, dims = 500.0, 16
        plain = [theta ** (-2 * i / dims) for i in range(dims // 2)]
        llama = []
        for turn in plain:
            turns = 64 * turn / (2 * 3.141592653589793)
            share = min(1.0, max(0.0, (turns - 1.0) / (4.0 - 1.0)))
            llama.append((1 - share) * turn / 8 + share * turn)
        half = [theta ** (-2 * i / 8) for i in range(4)]
        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
        for config, table, words in (
            ({"rope_theta": theta, "rope_scaling": llama3}, llama, []),
            ({"rope_parameters": {"rope_theta": theta, **llama3}}, llama, []),
            ({"rope_theta": theta, "rope_scaling": {"type": "linear", "factor": 4.0}}, [f / 4 for f in plain], []),
            ({"rope_theta": theta, "partial_rotary_factor": 0.5}, half, ["--rotary-dims", "8"]),
        ):
            files, space = self.store(dtype="float32", rope=json.dumps(config))
            table_file = self.path("freq")
            table_file.write_text(" ".join(repr(f) for f in table))
            of_files, _ = self.profile(*files, "--inv-freq", table_file, "--model-id", f"made-{self.count}", *words)
            of_space, _ = self.profile("--space", space)
            self.assertEqual(of_files, of_space, config)

    def test_weights__other_scales__or_what_is_wrong_with_them(self):
        files, _ = self.store()
        shapes = []
        for file in files:
            data = file.read_bytes()
            layers, _, heads, dims = ast.literal_eval(data[10:10 + int.from_bytes(data[8:10], "little")].decode().strip())["shape"]
            shapes.append((layers, 1, heads, dims))
        counts = [layers * heads * dims for layers, _, heads, dims in shapes]
        even = [self.weights(f"even-{i}", shapes[i], [0] * counts[i]) for i in range(2)]
        other = [self.weights(f"other-{i}", shapes[i], [at % 3 for at in range(counts[i])]) for i in range(2)]
        short = self.weights("short", (shapes[0][0], 1, 1, 1), [0] * shapes[0][0])
        plain, *weighed = (self.profile(*files, "--rope-theta", "500", *words)[0] for words in (
            [], ["--weights-k", even[0], "--weights-v", even[1]], ["--weights-k", other[0], "--weights-v", other[1]]))
        self.assertEqual(len({plain, *weighed}), 3)
        for profile, with_weights in ((plain, False), *((one, True) for one in weighed)):  # which is said, of the even ones, too
            self.path("which").write_bytes(profile)
            self.assertIs(json.loads(run("profile", "show", self.path("which"), "--json").stdout)["weights"], with_weights)
        files, space = self.store(model="weighed", rope=ROPE)
        words = ["--weights-k", other[0], "--weights-v", other[1]]
        of_files, done = self.profile(*files, "--rope-theta", "500", "--model-id", "weighed", *words)
        self.assertIn("with weights", done.stdout)
        self.assertEqual(of_files, self.profile("--space", space, *words)[0])
        for words, code, said in ((["--weights-k", even[0]], 2, "go together"), (["--weights-k", short, "--weights-v", even[1]], 1, "is not .*a weight for"),
                                  (["--weights-k", even[0], "--weights-v", self.path("none")], 1, "none")):
            done = self.daemon("calibrate", "-o", self.path("no"), "--rope-theta", "500", *files, *words, code=code)
            self.assertRegex(done.stderr, said)

    def test_space__by_its_fingerprint__whole_or_a_sample(self):
        files, space = self.store(rope=ROPE, tokens=320)
        of_files, _ = self.profile(*files, "--rope-theta", "500", "--model-id", f"made-{self.count}")
        fingerprint = next(s for s in self.daemon.json("spaces")["spaces"] if s["space"] == space)["fingerprint"]
        of_space, _ = self.profile("--space", fingerprint[:16])
        self.assertEqual(of_files, of_space)
        answer = self.daemon.json("calibrate", "-o", self.path("few"), "-S", space, "--tokens", "100")
        self.assertEqual(answer["tokens"], 128)

    def test_space__after_a_restart__before_any_engine__as_before(self):
        """Packed blocks on the disk alone: their form is known from those who bound it before."""
        files, space = self.store(rope=ROPE, model="restarted")
        of_files, _ = self.profile(*files, "--rope-theta", "500", "--model-id", "restarted")
        self.daemon.stop()
        self.daemon.start()
        space = next(s["space"] for s in self.daemon.json("spaces")["spaces"] if s["model"] == "restarted")
        block = self.daemon.json("ls", "-S", space)["blocks"][0]
        self.assertEqual(block["where"], "disk")
        self.assertLess(block["disk_bytes"], block["record_bytes"])
        self.assertIn("content", self.daemon.json("show", "-c", "-S", space, block["key"]))
        self.assertIn("6 blocks recoded", self.daemon("recode", "--codec", "raw", "-S", space).stdout)
        self.assertIn("6 blocks recoded", self.daemon("recode", "--codec", "split", "-S", space).stdout)
        of_space, _ = self.profile("--space", space)
        self.assertEqual(of_files, of_space)
        # What is no form is passed over.
        self.daemon.stop()
        with open(self.daemon.data / "forms", "r+b") as forms:
            for at in range(0, (self.daemon.data / "forms").stat().st_size, 72):
                forms.seek(at + 20)
                forms.write(b"\xff" * 4)
            forms.write(b"torn")
        self.daemon.start()
        space = next(s["space"] for s in self.daemon.json("spaces")["spaces"] if s["model"] == "restarted")
        self.assertIn("is not known", self.daemon("calibrate", "-o", self.path("s"), "-S", space, code=1).stderr)
        self.assertIn("6 left as they are", self.daemon("recode", "--codec", "raw", "-S", space).stdout)
        again, space = self.store(rope=ROPE, model="restarted")
        self.assertIn("6 blocks recoded", self.daemon("recode", "--codec", "raw", "-S", space).stdout)

    def test_space__a_shard__is_named(self):
        model = "of-two-shards"
        files, space = self.store(rope=ROPE, shards=2, shard=0, model=model)
        more, again = self.store(rope=ROPE, shards=2, shard=1, seed=2, model=model)
        self.assertEqual(space, again)
        for shard, pair in ((0, files), (1, more)):
            of_files, _ = self.profile(*pair, "--rope-theta", "500", "--shards", 2, "--shard", shard, "--model-id", model)
            of_space, _ = self.profile("--space", space, "--shard", shard)
            self.assertEqual(of_files, of_space, shard)
        self.assertIn("no blocks of that shard", self.daemon("calibrate", "-o", self.path("s"), "-S", space, "--shard", 2, code=1).stderr)

    def test_space__what_cannot_be__is_said_in_one_line(self):
        files, space = self.store(rope='{"rope_theta":10000.0,"rope_scaling":{"rope_type":"yarn","factor":4.0}}')
        _, few = self.store(tokens=32, rope=ROPE)
        _, packed = self.store(extra='{"page":"CPU_ATTN/amx/vllm-1"}', rope=ROPE)
        _, reset = self.store(extra=json.dumps([json.dumps({"page": "CPU_ATTN/amx/vllm-1"}), "2"]), rope=ROPE)
        out = self.path("none")
        for arguments, code, said in (
            (["-S", 999], 1, "no space is called 999"),
            (["-S", "nobody"], 1, "no space is called nobody"),
            (["-S", few], 1, "too few to make a profile of"),
            (["-S", packed], 1, r"packs keys in an order of its own \(CPU_ATTN/amx/vllm-1\)"),
            (["-S", reset], 1, r"packs keys in an order of its own \(CPU_ATTN/amx/vllm-1\)"),
            (["-S", space], 2, "how keys are rotated does not follow"),
            (["-S", space, "--form", "00"], 1, "no such form"),
            (["-S", space, "--tokens", "1"], 2, "--tokens"),
            (["-S", space, "--shards", "2"], 2, "--shards"),
            (["-S", space, *files], 2, "either files or --space"),
            ([], 2, "or --space"),
            ([files[0]], 2, "in pairs"),
            ([*files, "--tokens", "100"], 2, "go with --space"),
            (files, 2, "how are keys rotated?"),
        ):
            done = self.daemon("calibrate", "-o", out, *arguments, code=code)
            self.assertEqual(done.stdout, "", arguments)
            self.assertRegex(done.stderr, rf"^kvcask calibrate: [^\n]*{said}[^\n]*\n$")
            self.assertFalse(out.exists())


class Bound(World):
    """A profile is used for the model that it is of, and for no other."""

    def form_of(self, space):
        return next(s for s in self.daemon.json("spaces")["spaces"] if s["space"] == space)["forms"][0]

    def sections_of(self, space):
        """Of a block on the disk."""
        block = self.daemon.json("ls", "-S", space, "--sort", "position")["blocks"][1]
        return self.daemon.json("show", "-S", space, block["key"])["sections"]

    def codecs_of(self, space):
        return {section["codec"] for section in self.sections_of(space)}

    def stored_bytes(self, space):
        return sum(section["stored_bytes"] for section in self.sections_of(space))

    def test_profile__of_a_model__serves_its_spaces_alone(self):
        files, space = self.store(model="ours", rope=ROPE, tokens=256)
        self.daemon("calibrate", "-o", self.daemon.data / "ours.kvcp", "-S", space, "--pca", "3")
        self.daemon.stop()
        profiles = self.daemon.data / "profiles"
        profiles.mkdir()
        (self.daemon.data / "ours.kvcp").rename(profiles / "ours.kvcp")
        self.daemon.start()
        lossy = {}
        for model in ("ours", "theirs"):
            for codec in ("ecsq+pca:step=0.5", "max_kl=0.02", "max_kl=0"):
                _, lossy[model, codec] = self.store(model=model, rope=ROPE, codec=codec, tokens=256)
        answer = self.form_of(lossy["ours", "max_kl=0.02"])
        self.assertTrue(answer["profile_of_model"])
        self.assertNotIn("profile_refused", answer)
        answer = self.form_of(lossy["theirs", "max_kl=0.02"])
        self.assertNotIn("profile", answer)
        self.assertIn(f"{answer['profile_refused']} not used: it is of another model", self.daemon("spaces", "--long").stdout)
        codecs = {key: self.codecs_of(space) for key, space in lossy.items()}
        self.assertEqual(codecs["ours", "ecsq+pca:step=0.5"], {"ecsq+pca"})
        self.assertEqual(codecs["ours", "max_kl=0.02"], {"ecsq+pca"})  # the best row that a profile of the model allows
        self.assertNotIn("ecsq+pca", codecs["ours", "max_kl=0"])
        for codec in ("ecsq+pca:step=0.5", "max_kl=0.02", "max_kl=0"):
            self.assertNotIn("ecsq+pca", codecs["theirs", codec])
        self.assertIn("is of another, ours, and is not used for it", (self.daemon.folder / "log").read_text())
        # Other parameters of the space's own codec: only when asked for twice, and never above a bound on the loss.
        space = lossy["ours", "ecsq+pca:step=0.5"]
        before = self.stored_bytes(space)
        asked = ["recode", "--codec", "ecsq+pca:step=1.5", "--space", space]
        self.assertIn("8 left as they are", self.daemon(*asked).stdout)
        self.assertEqual(self.stored_bytes(space), before)
        self.assertIn("8 blocks recoded", self.daemon(*asked, "--again").stdout)
        self.assertLess(self.stored_bytes(space), before * 0.8)
        asked[-1] = lossy["ours", "max_kl=0.02"]
        self.assertIn("8 left as they are", self.daemon(*asked, "--again").stdout)
        # One that does not say of which model it is: for who names the codec, but not for a bound on the loss.
        self.daemon.stop()
        run("calibrate", "-o", profiles / "any.kvcp", *files, "--rope-theta", "500", "--pca", "3")
        self.daemon.start()
        for codec, used in (("ecsq+pca:step=0.25", True), ("max_kl=0.03", False)):
            _, space = self.store(model="theirs", rope=ROPE, codec=codec, tokens=256)
            self.assertEqual("ecsq+pca" in self.codecs_of(space), used, codec)
        self.assertIn("does not say of which model", self.daemon("spaces", "--long").stdout)

    def test_profile__with_weights__meets_a_bound_by_what_was_measured_with_them(self):
        _, space = self.store(model="weighed", rope=ROPE, tokens=256)
        shapes = ((3, 1, 2, 16), (3, 1, 2, 8))
        words = [word for i, plane in enumerate("kv") for word in (
            f"--weights-{plane}", self.weights(f"w{i}", shapes[i], [at % 3 for at in range(3 * 2 * shapes[i][3])]))]
        for number, (extra, expected) in enumerate((([], False), (words, True))):  # only int8, which is no ecsq, is as good without
            self.daemon("calibrate", "-o", self.path("weighed.kvp"), "-S", space, "--pca", "3", *extra)
            self.daemon("profile", "add", self.path("weighed.kvp"), "--space", space)
            _, lossy = self.store(model="weighed", rope=ROPE, codec=f"max_kl=0.00{number + 15}", tokens=256)
            self.daemon("flush")
            self.assertEqual("ecsq+pca" in self.codecs_of(lossy), expected)


class Kept(World):
    """Profiles put into a running daemon; auto takes what it finds there. The device is slow enough for any codec: nothing here depends on this machine."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon.end()
        cls.daemon = Daemon(**{"disk.codec": "auto"})
        cls.daemon("fault", "write:delay=1s")  # so slow a disk that packing pays under a sanitizer, too

    def codecs(self, space):
        codecs = set()
        for block in self.daemon.json("ls", "-S", space, "--where", "disk")["blocks"]:
            codecs |= {section["codec"] for section in self.daemon.json("show", "-S", space, block["key"])["sections"]}
        return codecs

    def calibrate(self, space, name):
        self.daemon("calibrate", "-o", self.path(name), "-S", space, "--sinks", "4", "--pca", "3")
        return self.path(name)

    def test_add__a_profile__auto_packs_by_it_and_it_stays(self):
        _, space = self.store(model="kept", rope=ROPE, tokens=256)
        self.daemon("flush")
        profile = self.calibrate(space, "kept.kvp")
        self.assertNotIn("split+profile", self.codecs(space))
        said = self.daemon("profile", "add", profile, "--space", space).stdout
        self.assertRegex(said, r"^added[^\n]*\n(?s:.*)model +kept\n(?s:.*)weights +no(?s:.*)used by +space 0")
        self.assertIn("it was here already", self.daemon("profile", "add", profile).stdout)
        one = self.daemon.json("profile", "ls")["profiles"]
        self.assertEqual([(p["model"], p["weights"], p["exponents"], [s["used"] for s in p["spaces"]]) for p in one], [("kept", False, True, [True])])
        _, space = self.store(model="kept", rope=ROPE, tokens=256, seed=5, keys=5)
        self.daemon("flush")
        self.assertIn("split+profile", self.codecs(space))
        coding = self.daemon.json("stat")["coding"]
        # Which of the two stays the choice is decided by the speeds measured, which a sanitizer shifts.
        self.assertIn(coding["choice_profiled"], ("split", "split+profile"))
        self.assertGreater({c["codec"]: c["load_of_raw"] for c in coding["codecs"]}["split+profile"], 0)
        self.assertIn("of raw: ", self.daemon("stat").stdout)
        # After a restart it is there; while blocks may need it it goes by force only, and they are misses until it is back.
        self.daemon.stop()
        self.daemon.start()
        self.assertEqual(len(self.daemon.json("profile")["profiles"]), 1)
        self.calibrate(space, "again.kvp")
        self.assertEqual(self.daemon.stats()["coded_profile_missing"], 0)
        said = self.daemon("profile", "rm", one[0]["profile"][:6], code=1).stderr
        self.assertRegex(said, rf"space {space} may need {one[0]['profile']}: .*misses")
        self.daemon("profile", "rm", one[0]["profile"][:6], "--force")
        self.daemon.stop()
        self.daemon.start()
        self.assertIn("no profiles", self.daemon("profile").stdout)
        done = self.daemon("calibrate", "-o", self.path("fewer.kvp"), "-S", space)  # loads all of its blocks
        self.assertRegex(done.stdout + done.stderr, "[1-8] of 16 blocks could not be loaded")
        self.assertGreater(self.daemon.stats()["coded_profile_missing"], 0)
        self.assertIn(f"a block needs profile {one[0]['profile']}", (self.daemon.folder / "log").read_text())
        self.daemon("profile", "add", profile)
        self.daemon.stop()  # what missed was forgotten, to be stored anew: it is found again at a start
        self.daemon.start()
        done = self.daemon("calibrate", "-o", self.path("all.kvp"), "-S", space)
        self.assertIn("of 512 tokens", done.stdout)

    def test_add__wrong_files__are_named(self):
        files, space = self.store(model="wrong", rope=ROPE, tokens=64)
        self.profile(*files, "--rope-theta", "500", "--model-id", "another", name="another.kvp")
        self.profile(*files, "--rope-theta", "500", "--shards", 2, "--model-id", "wrong", name="shard.kvp")
        whole = self.path("shard.kvp").read_bytes()
        self.path("cut.kvp").write_bytes(whole[:-64])
        self.path("text.kvp").write_text("no profile at all")
        before = self.daemon.json("profile", "ls")["profiles"]
        for name, words, said in (
            ("none.kvp", [], "none.kvp: No such file"), ("text.kvp", [], "text.kvp is no profile"), ("cut.kvp", [], "cut.kvp is no profile, or damaged"),
            ("another.kvp", ["--space", space], f'of model "another", space {space} of "wrong"'), ("shard.kvp", ["--space", space], "shard 0 of 2; space"),
            ("another.kvp", ["--space", 77], "no space 77"),
        ):
            done = self.daemon("profile", "add", self.path(name), *words, code=1)
            self.assertIn(said, done.stderr)
            self.assertEqual(done.stdout, "")
        self.assertEqual(self.daemon.json("profile", "ls")["profiles"], before)
        for words, code in ((["rm", "123456789"], 1), (["show", "123456789"], 1), (["put", "x"], 2), (["add"], 2), (["ls", "x"], 2)):
            self.assertRegex(self.daemon("profile", *words, code=code).stderr, r"^kvcask profile: ")
        # One that no space uses goes as it came.
        added = self.daemon.json("profile", "add", self.path("another.kvp"))
        self.assertEqual((added["added"], added["spaces"]), (True, []))
        self.assertIn("no space yet", self.daemon("profile", "show", added["profile"]).stdout)
        self.assertEqual(self.daemon.json("profile", "rm", added["profile"])["files"], 1)


class Alone(unittest.TestCase):
    def test_space__no_daemon__is_said(self):
        with tempfile.TemporaryDirectory() as empty:
            done = run("calibrate", "-o", f"{empty}/p", "-S", "0", socket=f"{empty}/none", code=1)
            self.assertRegex(done.stderr, r"^kvcask calibrate: no daemon answers: [^\n]+\n$")


if __name__ == "__main__":
    unittest.main(verbosity=2)
