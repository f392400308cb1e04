# SPDX-License-Identifier: Apache-2.0
"""The light side of task definition: no SeqIO, no TensorFlow, no JAX. See spec.py."""
