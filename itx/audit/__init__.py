# SPDX-License-Identifier: Apache-2.0
"""What the data of a run are: read, kept, skipped and why, shares, lengths, leaks, easy tasks."""
