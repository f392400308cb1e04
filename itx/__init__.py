# SPDX-License-Identifier: Apache-2.0
"""itx: instruction tuning in JAX. Start reading at README.md, then itx/train.py."""
