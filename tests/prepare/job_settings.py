# SPDX-License-Identifier: Apache-2.0
"""Settings of jobs as tests want them."""

from itx.config import DataConfig
from itx.prepare.types import Settings


def job_settings(vocab="v", chat_template="", architecture="decoder", **data) -> Settings:
    """Of a run without modules, with 20 evaluation examples and no limit of few-shot tokens; data:
    further fields of DataConfig."""
    data = {"modules": (), "eval_examples": 20, "fewshot_tokens": 10**9, "cache_dir": "", **data}
    return Settings(DataConfig(**data), str(vocab), chat_template, architecture)
