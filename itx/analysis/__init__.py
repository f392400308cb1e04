# SPDX-License-Identifier: Apache-2.0
"""What a finished run shows: its report."""
