# SPDX-License-Identifier: Apache-2.0
"""Build hook: compiles libkvcask.so, libkvcask-embedded.so and kvcaskd with cmake and puts them into the package.

KVCASK_BUILD_DIR=DIR takes them from a build folder that exists already, and compiles nothing.
The libraries that kvcaskd needs (RocksDB and others) are the system's: see tools/setup.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

SOURCE = Path(__file__).resolve().parents[2]
PRODUCTS = {
    "lib/libkvcask.so": "lib/libkvcask.so",
    "lib/libkvcask-embedded.so": "lib/libkvcask-embedded.so",
    "bin/kvcaskd": "bin/kvcaskd",
}


class BuildWithCmake(build_py):
    def run(self):
        super().run()
        package = Path(self.build_lib) / "kvcask"
        given = os.environ.get("KVCASK_BUILD_DIR")
        if given:
            self._take(Path(given), package)
            return
        if not (SOURCE / "CMakeLists.txt").exists():
            raise SystemExit(f"kvcask is built from its source tree; {SOURCE} has no CMakeLists.txt")
        with tempfile.TemporaryDirectory(prefix="kvcask-build-") as build:
            self._compile(build)
            self._take(Path(build), package)

    def _compile(self, build):
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = ["cmake", "-S", str(SOURCE), "-B", build, *generator, "-DKVC_CLIENT_ONLY=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
        make = ["cmake", "--build", build, "-j", str(os.cpu_count() or 1), "--target", "kvcask", "kvcask-embedded", "kvcaskd"]
        for command in (configure, make):
            print("kvcask:", " ".join(command), file=sys.stderr)
            subprocess.run(command, check=True)

    def _take(self, build, package):
        for source, target in PRODUCTS.items():
            (package / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build / source, package / target, follow_symlinks=True)
            (package / target).chmod(0o755)


class WithPrograms(Distribution):
    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    """Any Python 3, this platform: the library is opened by ctypes."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    distclass=WithPrograms,
    cmdclass={"build_py": BuildWithCmake, "bdist_wheel": PlatformWheel},
)
