# SPDX-License-Identifier: Apache-2.0
"""The shipped registry. Importing it registers every task and mixture, and reads no data."""

from tasks import bbh, files, induction, mixtures, seeds, toy  # noqa: F401
