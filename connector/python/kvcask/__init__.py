# SPDX-License-Identifier: Apache-2.0
"""kvcask: a tiered store of KV-cache blocks, from Python.

    kvcask.client     Client, Space, Op: the C library with Python objects around it
    kvcask.vllm       KvcaskConnector, the connector that a vLLM loads by kv_connector_module_path
    kvcask.autostart  finds a running kvcaskd or starts one

Importing this package loads nothing: the C library is opened by the first use of kvcask.client.
"""

__version__ = "0.1.0"
