# SPDX-License-Identifier: Apache-2.0
"""Evaluation: generate.py and rank.py ask the model, metrics.py and stats.py judge, evaluate.py
runs."""
