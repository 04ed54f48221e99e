# SPDX-License-Identifier: Apache-2.0
"""One real vLLM engine, driven by lines of JSON on stdin, answering by lines of JSON on a pipe. Run by harness.Engine.

    {"do": "generate", "prompts": [[token, ...], ...], "max_tokens": n, "logprobs": 2, "params": [{...}, ...], "salts": [...]}
    {"do": "reset", "connector": false}     {"do": "metrics"}     {"do": "cpu"}     {"do": "connector", "on": true}     {"do": "exit"}
"""

import json
import os
import sys
import time


def cpu_seconds(root: int) -> dict:
    """CPU time of this process and its children, by process name."""
    ticks = os.sysconf("SC_CLK_TCK")
    parent_of, used, name_of = {}, {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
        pid = int(entry)
        parent_of[pid], name_of[pid] = int(rest[1]), name
        used[pid] = (int(rest[11]) + int(rest[12])) / ticks
    mine = {}
    for pid in used:
        at = pid
        while at not in (root, 0, 1) and at in parent_of:
            at = parent_of[at]
        if at == root:
            key = f"{name_of[pid]}-{pid}"
            mine[key] = used[pid]
    return mine


class Driver:
    def __init__(self, config: dict):
        from vllm import LLM

        self.llm = LLM(**config)

    def generate(self, ask: dict) -> dict:
        from vllm import SamplingParams

        prompts, sampling = [], []
        for index, tokens in enumerate(ask["prompts"]):
            prompt = {"prompt_token_ids": tokens}
            salt = ask.get("salts", [None] * len(ask["prompts"]))[index]
            if salt:
                prompt["cache_salt"] = salt
            prompts.append(prompt)
            params = {"temperature": 0.0, "max_tokens": ask.get("max_tokens", 1), "ignore_eos": True}
            if ask.get("logprobs"):
                params["logprobs"] = ask["logprobs"]
            extra = ask.get("params", [None] * len(ask["prompts"]))[index]
            if extra:
                params.update(extra)
            sampling.append(SamplingParams(**params))
        began = time.perf_counter()
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - began
        results = []
        for output in outputs:
            completion = output.outputs[0]
            gap = None
            if completion.logprobs:
                gap = min((gap_of(step) for step in completion.logprobs), default=None)
            results.append(
                {
                    "tokens": list(completion.token_ids),
                    "cached": output.num_cached_tokens,
                    "finish": completion.finish_reason,
                    "first": getattr(output.metrics, "first_token_latency", None),
                    "gap": gap,
                }
            )
        return {"seconds": seconds, "results": results}

    def reset(self, ask: dict) -> dict:
        """Retried: blocks of requests that just ended may still be gathered, and vLLM refuses as long as any is in use."""
        until = time.monotonic() + ask.get("patience", 10.0)
        while True:
            done = self.llm.reset_prefix_cache(reset_connector=bool(ask.get("connector")))
            if done or time.monotonic() > until:
                return {"done": bool(done)}
            time.sleep(0.01)

    def metrics(self, ask: dict) -> dict:
        found: dict = {}
        for metric in self.llm.get_metrics():
            value = getattr(metric, "value", None)
            if value is None:
                continue
            name = metric.name
            source = metric.labels.get("source")
            found[f"{name}{{{source}}}" if source else name] = found.get(name, 0) + value
        return found

    def connector(self, ask: dict) -> dict:
        """Out of vLLM or back in, when the connector has nothing left to do. Only with that of switched.py."""
        while not self.llm.llm_engine.engine_core.call_utility("kvcask_switch", ask["on"]):
            time.sleep(0.01)
        return {}

    def cpu(self, ask: dict) -> dict:
        return cpu_seconds(os.getpid())


def gap_of(step: dict) -> float:
    best = sorted((entry.logprob for entry in step.values()), reverse=True)
    return best[0] - best[1] if len(best) > 1 else 1e9


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    config = json.loads(sys.argv[2])
    began = time.perf_counter()
    driver = Driver(config)
    print(json.dumps({"ready": time.perf_counter() - began}), file=answers)
    for line in sys.stdin:
        ask = json.loads(line)
        if ask["do"] == "exit":
            break
        try:
            answer = getattr(driver, ask["do"])(ask)
        except Exception as error:  # told to the test, which decides
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
