# SPDX-License-Identifier: Apache-2.0
"""The model: transformer.py reads top down; layers.py and attention.py hold its parts."""
