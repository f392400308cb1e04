# SPDX-License-Identifier: Apache-2.0
"""The writing side: sources -> renderings -> tokens -> cache. Only seqio_bridge.py imports
SeqIO."""
