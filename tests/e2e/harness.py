# SPDX-License-Identifier: Apache-2.0
"""What the engine tests share: a daemon, a real vLLM in a process of its own, prompts, and cleaning up.

Environment (set by CMake and tools/check, or by hand):
    KVC_ENGINE_VENV, KVC_ENGINE_MODEL   made by tests/engines/setup.sh
    KVC_BUILD                           build folder: bin/kvcaskd, lib/libkvcask.so
    KVC_LONG=1                          long forms of the tests
    KVC_NO_ENGINE=1                     a missing engine environment skips (exit 77) instead of failing
    KVC_MACHINE_LOCK                    file that is flocked while an engine runs: engines time each other out on a small machine
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("KVC_BUILD", TOP / "build"))
VENV = Path(os.environ.get("KVC_ENGINE_VENV", TOP / "build" / "venv"))
MODEL = Path(os.environ.get("KVC_ENGINE_MODEL", TOP / "build" / "model"))
LONG = os.environ.get("KVC_LONG", "0") == "1"
BLOCK = 32

sys.path.insert(0, str(TOP / "connector" / "python"))
os.environ.setdefault("KVCASK_LIBRARY", str(BUILD / "lib" / "libkvcask.so"))
os.environ.setdefault("KVCASK_DAEMON", str(BUILD / "bin" / "kvcaskd"))


def need_engine() -> None:
    """Exits 77 when the environment is missing and that was allowed; fails loudly otherwise."""
    missing = [str(p) for p in (VENV / "bin" / "python", MODEL / "model.safetensors") if not p.exists()]
    if not missing:
        return
    print(f"no engine environment: {', '.join(missing)} (made by tools/setup --engine)")
    sys.exit(77 if os.environ.get("KVC_NO_ENGINE", "0") == "1" else 1)


def say(text: str) -> None:
    print(f"[{time.monotonic() - _began:6.1f}s] {text}", flush=True)


_began = time.monotonic()


@contextlib.contextmanager
def machine():
    """The machine for oneself, where others share it by a lock file."""
    path = os.environ.get("KVC_MACHINE_LOCK")
    if not path:
        yield
        return
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Daemon:
    """kvcaskd in a folder of its own. options: keys of kvcaskd's config."""

    def __init__(self, folder: Path, **options: Any):
        self.folder = folder
        self.socket = str(folder / "kvcask.sock")
        self.data_dir = folder / "data"
        self.options = {"memory.capacity": "1GiB", "disk.capacity": "4GiB"}
        self.options.update({key.replace("__", "."): value for key, value in options.items()})
        self.process: subprocess.Popen | None = None
        self.runs = 0

    def start(self) -> Daemon:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        config = self.folder / "kvcaskd.yaml"
        lines = [f"socket: {json.dumps(self.socket)}", f"data_dir: {json.dumps(str(self.data_dir))}"]
        lines += [f"{key}: {json.dumps(str(value))}" for key, value in self.options.items()]
        config.write_text("\n".join(lines) + "\n")
        self.launch(config)
        return self

    def launch(self, config: Path) -> None:
        from kvcask import autostart

        self.runs += 1
        self.log = self.folder / f"kvcaskd.{self.runs}.log"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(
                [os.environ["KVCASK_DAEMON"], "--config", str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        until = time.monotonic() + 20
        while not autostart.answers(self.socket):
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"kvcaskd did not come up: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Cleanly: what is in memory goes to the disk."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise RuntimeError(f"kvcaskd ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def admin(self, question: str, arguments: Any = None) -> Any:
        from kvcask.client import Client

        with Client("unix:" + self.socket, name="e2e") as client:
            return client.admin(question, arguments)

    def wait_index(self) -> None:
        """After a start: until all that lies on the disk is known."""
        while self.admin("stat")["index_loading"]:
            time.sleep(0.02)

    def flush(self) -> None:
        from kvcask.client import Client

        with Client("unix:" + self.socket, name="e2e") as client:
            client.flush(120)


def kv_config(daemon: Daemon | None, **extra: Any) -> dict:
    """kv_transfer_config of an engine beside this daemon."""
    module = extra.pop("module", "kvcask.vllm")
    name = extra.pop("connector", "KvcaskConnector")
    socket = {"socket": daemon.socket} if daemon is not None else {}
    return {
        "kv_connector": name,
        "kv_connector_module_path": module,
        "kv_role": extra.pop("kv_role", "kv_both"),
        "kv_connector_extra_config": {**socket, **extra},
    }


class Engine:
    """A vLLM in processes of its own. core: the CPU it computes on. wait=False: the first question waits until it is up, not the constructor.
    lean: one that is only to say what vLLM says, beside another: on core 0, one process less to start, and killed in the end."""

    def __init__(
        self,
        kv: dict | None,
        dtype: str = "float32",
        core: int = 1,
        environment: dict | None = None,
        wait: bool = True,
        lean: bool = False,
        **config: Any,
    ):
        need_engine()
        args = {
            "model": str(MODEL),
            "dtype": dtype,
            "max_model_len": 4096,
            "enforce_eager": True,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 4096,
            "block_size": BLOCK,
            "prefix_caching_hash_algo": "sha256_cbor",
            "disable_log_stats": False,
            "seed": 0,
        }
        if kv is not None:
            args["kv_transfer_config"] = kv
        args.update(config)
        env = dict(os.environ)
        cores = os.cpu_count() or 1
        env.update(
            HF_HUB_OFFLINE="1",
            TRANSFORMERS_OFFLINE="1",
            VLLM_NO_USAGE_STATS="1",
            DO_NOT_TRACK="1",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND=str(0 if lean else min(core, cores - 1)),
            # It waits so long for its worker, which never ends by itself.
            VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS="1",
            VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "INFO"),
            PYTHONPATH=f"{TOP / 'connector' / 'python'}:{HERE}",
        )
        if lean:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        env.update(environment or {})
        self._lean = lean
        self._shm = set(os.listdir("/dev/shm"))
        read, write = os.pipe()
        self.log_path = tempfile.NamedTemporaryFile(prefix="kvcask-engine-", suffix=".log", delete=False).name
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(VENV / "bin" / "python"), str(HERE / "engine_main.py"), str(write), json.dumps(args)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=env,
                pass_fds=[write],
                start_new_session=True,
            )
        os.close(write)
        self._answers = os.fdopen(read, "r")
        self.start_seconds: float | None = None
        if wait:
            self.ready()

    def ready(self) -> Engine:
        if self.start_seconds is None:
            self.start_seconds = self._answer(300)["ready"]
        return self

    def _answer(self, seconds: float) -> Any:
        ready, _, _ = select.select([self._answers], [], [], seconds)
        line = self._answers.readline() if ready else ""
        if not line:
            tail = Path(self.log_path).read_text(errors="replace")[-4000:]
            self.kill()
            raise RuntimeError(f"the engine {'ended' if ready else 'does not answer'}:\n{tail}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(f"the engine says {answer['error']}; log {self.log_path}")
        return answer

    def begin(self, do: str, **ask: Any) -> None:
        self.ready()  # one answer at a time: select() does not see what has been read already
        self.process.stdin.write((json.dumps({"do": do, **ask}) + "\n").encode())
        self.process.stdin.flush()

    def end(self, seconds: float = 900) -> Any:
        return self._answer(seconds)

    def ask(self, do: str, seconds: float = 900, **ask: Any) -> Any:
        self.begin(do, **ask)
        return self.end(seconds)

    def generate(self, prompts: list[list[int]], max_tokens: int = 1, **ask: Any) -> dict:
        return self.ask("generate", prompts=prompts, max_tokens=max_tokens, **ask)

    def reset(self, connector: bool = False) -> bool:
        return self.ask("reset", connector=connector)["done"]

    def kvcask(self) -> dict[str, float]:
        """The connector's counters since the engine started."""
        prefix = "vllm:kvcask_"
        found = self.ask("metrics")
        return {name[len(prefix) :]: value for name, value in found.items() if name.startswith(prefix)}

    def log(self) -> str:
        return Path(self.log_path).read_text(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None and self.start_seconds is not None and not self._lean:
            with contextlib.suppress(OSError):
                self.begin("exit")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        self.kill()

    def kill(self) -> None:
        """The engine is a session of its own: all its processes and no other's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        left = {name for name in set(os.listdir("/dev/shm")) - self._shm if name.startswith(("psm_", "vllm", "sem.mp-", "torch_"))}
        for name in left - mapped_names(left):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join("/dev/shm", name))

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        self.close()
        if kind is None:
            os.unlink(self.log_path)
        else:
            print(f"engine log: {self.log_path}\n{self.log()[-3000:]}", flush=True)


# Figures of the connector that rise when an answer or a load did not come in time, which this machine's other work may cause.
LATE = ("match_timeouts", "match_failures", "loads_withheld", "loads_timed_out", "load_failed_blocks")


def late(before: dict[str, float], after: dict[str, float]) -> bool:
    return any(after.get(name, 0) > before.get(name, 0) for name in LATE)


def mapped_names(names: set[str]) -> set[str]:
    """Those of these /dev/shm objects that a process has mapped: somebody else's engine. By inode: a semaphore is mapped under another name."""
    numbers = {}
    for name in names:
        with contextlib.suppress(OSError):
            numbers[os.stat(os.path.join("/dev/shm", name)).st_ino] = name
    found: set[str] = set()
    for entry in os.listdir("/proc") if numbers else ():
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{entry}/maps").read_text(errors="replace").splitlines():
                if "/dev/shm/" in line and int(line.split()[4]) in numbers:
                    found.add(numbers[int(line.split()[4])])
    return found


@contextlib.contextmanager
def workplace(name: str):
    """A folder on the disk where the build lies, for the daemon's files; removed afterwards."""
    base = os.environ.get("KVC_E2E_DIR", str(BUILD if BUILD.exists() else tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=f"e2e-{name}-", dir=base))
    try:
        yield folder
    finally:
        if os.environ.get("KVC_KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)


# ---- prompts ------------------------------------------------------------------------------------------------------------


def corpus() -> list[int]:
    """A long run of real English as tokens: the documentation strings of Python's own library, the same on every machine."""
    cache = MODEL / "kvcask-corpus.json"
    if cache.exists():
        return json.loads(cache.read_text())
    code = (
        "import sys, json, importlib\n"
        "names = 'argparse ast asyncio.events bisect calendar collections concurrent.futures configparser csv ctypes datetime '"
        "'decimal difflib email enum fractions functools hashlib heapq http.client inspect io ipaddress itertools json logging '"
        "'math mimetypes multiprocessing optparse os pathlib pdb pickle pprint random re sched shelve shutil socket sqlite3 '"
        "'statistics string subprocess tarfile tempfile textwrap threading timeit tokenize trace turtle typing unittest '"
        "'urllib.parse uuid weakref zipfile'.split()\n"
        "import pydoc\n"
        "text = '\\n'.join(pydoc.plain(pydoc.render_doc(importlib.import_module(n))) for n in names)\n"
        "from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "json.dump(t(text[:900000])['input_ids'], open(sys.argv[2], 'w'))\n"
    )
    partial = str(cache) + f".{os.getpid()}"
    subprocess.run(
        [str(VENV / "bin" / "python"), "-c", code, str(MODEL), partial],
        check=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    os.rename(partial, cache)
    return json.loads(cache.read_text())


class Prompts:
    """Fresh prompts of a wanted length, never the same twice, from a seed."""

    def __init__(self, seed: int):
        self._tokens = corpus()
        self._random = random.Random(seed)

    def fresh(self, length: int) -> list[int]:
        at = self._random.randrange(len(self._tokens) - length)
        # A random word in front, so that two prompts from overlapping places share no block.
        lead = [self._random.randrange(1000, 40000) for _ in range(4)]
        return (lead + self._tokens[at : at + length])[:length]


def run(main: Any) -> None:
    """Runs a test's main() with the machine locked; prints what went wrong and sets the exit status."""
    need_engine()
    try:
        with machine():
            main()
    except AssertionError:
        traceback.print_exc()
        print("FAILED")
        sys.exit(1)
    print("passed")
