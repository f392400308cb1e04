# SPDX-License-Identifier: Apache-2.0
"""The reading side: cache format, lock, order, packing, loader. Free of TensorFlow, SeqIO and
JAX."""
