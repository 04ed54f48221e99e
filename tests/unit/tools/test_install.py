#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cmake --install into a folder of its own, and what a stranger does with it: compile against it, run it. test_install.py CMAKE CC"""
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("KVC_BUILD", Path(__file__).resolve().parents[3] / "build"))
CMAKE, CC = (sys.argv[1:3] + ["cmake", "cc"][len(sys.argv[1:3]) :])[:2]
PROGRAM = """
#include <kvcask/kvcask.h>
#include <stdio.h>
int main(void)
{
	struct kvc_client *client;
	kvc_status_t status = kvc_open("embedded:?memory.capacity=16MiB", NULL, &client);
	if (status != KVC_OK) {
		fprintf(stderr, "%s\\n", kvc_last_error());
		return 1;
	}
	kvc_close(client);
	puts(kvc_version());
	return 0;
}
"""


def run(*command, env=None):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=dict(os.environ, **(env or {})), timeout=100)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvcask-install-")
        cls.prefix = Path(cls.folder.name) / "usr"
        run(CMAKE, "--install", BUILD, "--prefix", cls.prefix)
        cls.lib = next(p.parent for p in cls.prefix.rglob("libkvcask.so"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_install__all_that_a_user_needs__is_there(self):
        for path in ("bin/kvcask", "bin/kvcaskd", "include/kvcask/kvcask.h", "include/kvcask/form.h", "include/kvcask/status.h",
                     "include/kvcask/plugin/tier.h", "etc/kvcask/kvcaskd.yaml", "etc/kvcask/kvcaskd.yaml.default",
                     "lib/systemd/system/kvcaskd.service", "share/man/man1/kvcask.1", "share/man/man8/kvcaskd.8"):
            self.assertTrue((self.prefix / path).is_file(), path)
        for name in ("libkvcask.so.0", "libkvcask-embedded.so", "pkgconfig/kvcask.pc"):
            self.assertTrue((self.lib / name).exists(), name)

    def test_programs__installed__run(self):
        self.assertRegex(run(self.prefix / "bin" / "kvcask", "--version"), r"^kvcask \d+\.\d+\.\d+\n$")
        self.assertRegex(run(self.prefix / "bin" / "kvcaskd", "--version"), r"^kvcaskd \d+\.\d+\.\d+\n$")
        config = self.prefix / "etc" / "kvcask" / "kvcaskd.yaml"
        run(self.prefix / "bin" / "kvcaskd", "--config", config, "--check-config")
        options = [line for line in config.read_text().splitlines() if re.match(r"#[a-z_.]+: ", line)]
        self.assertGreater(len(options), 15)

    def test_unit__paths__are_those_of_the_installation(self):
        unit = (self.prefix / "lib" / "systemd" / "system" / "kvcaskd.service").read_text()
        program, option, config = re.search(r"^ExecStart=(\S+) (--config) (\S+)$", unit, re.M).groups()
        self.assertTrue(os.access(program, os.X_OK), program)
        self.assertTrue(os.path.isfile(config), config)

    def test_config__of_the_user__is_not_overwritten(self):
        config = self.prefix / "etc" / "kvcask" / "kvcaskd.yaml"
        before = config.read_text()
        try:
            config.write_text("socket: /run/mine.sock\n")
            run(CMAKE, "--install", BUILD, "--prefix", self.prefix)
            self.assertEqual(config.read_text(), "socket: /run/mine.sock\n")
        finally:
            config.write_text(before)

    def test_library__exports__kvc_names_with_a_version_only(self):
        names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", self.lib / "libkvcask.so").splitlines()]
        functions = [name for name in names if not name.startswith("KVCASK_")]
        self.assertGreater(len(functions), 40)
        for name in functions:
            self.assertRegex(name, r"^kvc_[a-z_]+@@KVCASK_[0-9.]+$")
        header = (self.prefix / "include" / "kvcask" / "kvcask.h").read_text()
        declared = set(re.findall(r"\b(kvc_[a-z_]+)\(", re.sub(r"/\*.*?\*/", "", header, flags=re.S)))
        self.assertEqual(declared - {name.split("@")[0] for name in functions}, set())

    def test_library__needs__libc_and_libcrypto_only(self):
        needed = re.findall(r"NEEDED\s+(\S+)", run("objdump", "-p", self.lib / "libkvcask.so"))
        self.assertLessEqual(set(needed), {"libc.so.6", "libcrypto.so.3", "ld-linux-x86-64.so.2", "libpthread.so.0", "libdl.so.2", "libm.so.6"})

    def test_program_of_a_stranger__by_pkg_config__compiles_and_runs(self):
        source, binary = Path(self.folder.name) / "try.c", Path(self.folder.name) / "try"
        source.write_text(PROGRAM)
        flags = run("pkg-config", "--cflags", "--libs", "kvcask", env={"PKG_CONFIG_PATH": str(self.lib / "pkgconfig")}).split()
        self.assertIn(f"-I{self.prefix}/include", [os.path.normpath(flag) for flag in flags])
        run(CC, "-Wall", "-Werror", source, "-o", binary, *flags)
        self.assertRegex(run(binary, env={"LD_LIBRARY_PATH": str(self.lib)}), r"^\d+\.\d+\.\d+\n$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
