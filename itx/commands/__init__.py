# SPDX-License-Identifier: Apache-2.0
"""The commands, a file for each group: what it takes, what it does in order, and what it prints.

A command returns (facts, exit code); cli.py writes the facts where --json says.
"""
