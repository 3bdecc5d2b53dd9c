# SPDX-License-Identifier: Apache-2.0
"""The SGLang adapter: ``--disaggregation-transfer-backend mooncake_connector``.

SGLang finds it through the entry point ``sglang.srt.plugins``. Nothing of SGLang is imported before
SGLang itself asks for the backend's classes.
"""
