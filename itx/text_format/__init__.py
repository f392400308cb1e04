# SPDX-License-Identifier: Apache-2.0
"""From messages and texts to token ids, as the build and inference both need it; content never
becomes control."""
