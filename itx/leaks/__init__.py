# SPDX-License-Identifier: Apache-2.0
"""Which training records hold what evaluation asks: one search, for the build, the audit and `itx
eval`."""
