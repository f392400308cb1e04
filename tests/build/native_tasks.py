# SPDX-License-Identifier: Apache-2.0
"""A user's own module: registers tasks straight in SeqIO, where it finds the vocabulary in ITX_TEST_VOCABULARY."""

import os

from tests.build.seqio_probe import register_native

register_native(os.environ["ITX_TEST_VOCABULARY"])
